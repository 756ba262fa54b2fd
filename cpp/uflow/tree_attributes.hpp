// What one may ask about the nodes of a max-tree; every answer has one entry per pixel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "uflow/grid.hpp"
#include "uflow/max_tree.hpp"

namespace uflow {

// Whether the pixel is the one its node is known by.
[[nodiscard]] inline bool is_canonical(Grid const& grid, MaxTree const& tree, Pixel p) {
    auto const parent = tree.parent[static_cast<std::size_t>(p)];
    return parent == p || grid.values[static_cast<std::size_t>(parent)] != grid.values[static_cast<std::size_t>(p)];
}

// Pixels in the component of each pixel's node.
[[nodiscard]] inline std::vector<Pixel> component_area(Grid const& grid, MaxTree const& tree) {
    std::vector<Pixel> area(tree.order.size(), 1);
    for (auto i = tree.order.size(); i-- > 1;) {
        auto const p = static_cast<std::size_t>(tree.order[i]);
        area[static_cast<std::size_t>(tree.parent[p])] += area[p];
    }
    for (auto const p : tree.order)
        if (!is_canonical(grid, tree, p))
            area[static_cast<std::size_t>(p)] =
                area[static_cast<std::size_t>(tree.parent[static_cast<std::size_t>(p)])];
    return area;
}

// Children of each canonical pixel's node; 0 for the other pixels.
[[nodiscard]] inline std::vector<Pixel> child_count(Grid const& grid, MaxTree const& tree) {
    std::vector<Pixel> count(tree.order.size(), 0);
    for (auto const p : tree.order) {
        auto const parent = tree.parent[static_cast<std::size_t>(p)];
        if (parent != p && is_canonical(grid, tree, p)) ++count[static_cast<std::size_t>(parent)];
    }
    return count;
}

}  // namespace uflow
