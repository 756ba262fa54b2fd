// Max-tree of a grid under 4-connectivity: one node per connected component of an upper level set {value >= t}.
// Berger et al., "Effective component tree computation with application to pattern recognition in astronomical
// imaging", ICIP 2007: sort, flood from the top with union-find, then make every node speak through one pixel.
#pragma once

#include <cmath>
#include <cstddef>
#include <stdexcept>
#include <vector>

#include "uflow/grid.hpp"
#include "uflow/order.hpp"
#include "uflow/union_find.hpp"

namespace uflow {

// A node is known by its canonical pixel: among the pixels whose value is the node's level, the one of lowest number.
struct MaxTree {
    std::vector<Pixel> parent;  // canonical pixel -> canonical pixel of the parent node (the root: itself);
                                // any other pixel -> the canonical pixel of its own node
    std::vector<Pixel> order;   // all pixels, every pixel after its parent: increasing value, ties by pixel number
};

namespace detail {

[[nodiscard]] inline std::vector<Pixel> increasing_order(Grid const& grid) {
    auto const size = grid.values.size();
    std::vector<KeyedPixel> items(size);
    std::vector<KeyedPixel> scratch(size);
    for (std::size_t p = 0; p < size; ++p)  // complemented: the sort is decreasing and stable
        items[p] = {~ordered_bits(grid.values[p]), static_cast<Pixel>(p)};
    auto const sorted = sort_decreasing(items, scratch);
    std::vector<Pixel> order(size);
    for (std::size_t i = 0; i < size; ++i) order[i] = sorted[i].pixel;
    return order;
}

// Each pixel, from the highest down, becomes the parent of the components it touches.
[[nodiscard]] inline std::vector<Pixel> flood_from_the_top(Grid const& grid, std::vector<Pixel> const& order) {
    constexpr Pixel unseen = -1;
    std::vector<Pixel> parent(order.size(), unseen);
    auto sets = make_union_find(order.size());
    for (auto i = order.size(); i-- > 0;) {
        auto const p = order[i];
        parent[static_cast<std::size_t>(p)] = p;
        for_each_neighbour(grid, p, [&](Pixel q) {
            if (parent[static_cast<std::size_t>(q)] == unseen) return;
            auto const root = find_root(sets, q);
            if (root == p) return;
            parent[static_cast<std::size_t>(root)] = p;
            sets.link[static_cast<std::size_t>(root)] = p;
        });
    }
    return parent;
}

// From the root up: a pixel whose parent is only another pixel of the grandparent's level skips to the grandparent.
inline void make_canonical(Grid const& grid, MaxTree& tree) {
    auto const value = [&](Pixel p) { return grid.values[static_cast<std::size_t>(p)]; };
    for (auto const p : tree.order) {
        auto& parent = tree.parent[static_cast<std::size_t>(p)];
        auto const grandparent = tree.parent[static_cast<std::size_t>(parent)];
        if (value(grandparent) == value(parent)) parent = grandparent;
    }
}

}  // namespace detail

[[nodiscard]] inline MaxTree build_max_tree(Grid const& grid) {
    for (auto const value : grid.values)
        if (std::isnan(value)) throw std::invalid_argument("max_tree: the score has a NaN");
    MaxTree tree;
    tree.order = detail::increasing_order(grid);
    tree.parent = detail::flood_from_the_top(grid, tree.order);
    detail::make_canonical(grid, tree);
    return tree;
}

}  // namespace uflow
