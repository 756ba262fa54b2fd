// Max-tree of a grid under 4-connectivity: one node per connected component of an upper level set {value >= t}.
// Berger et al., "Effective component tree computation with application to pattern recognition in astronomical
// imaging", ICIP 2007: sort, flood from the top with union-find, then make every node speak through one pixel.
//
// The whole tree, for whoever wants to look at it; finding regions needs less (see branches.hpp).
#pragma once

#include <cmath>
#include <cstddef>
#include <numeric>
#include <span>
#include <stdexcept>
#include <vector>

#include "uflow/grid.hpp"
#include "uflow/order.hpp"

namespace uflow {

// A node is known by its canonical pixel: among the pixels whose value is the node's level, the one of lowest number.
struct MaxTree {
    std::vector<Pixel> parent;  // canonical pixel -> canonical pixel of the parent node (the root: itself);
                                // any other pixel -> the canonical pixel of its own node
    std::vector<Pixel> order;   // all pixels, every pixel after its parent: increasing value, ties by pixel number
    std::vector<Pixel> area;    // pixels in the component of each pixel's node
};

namespace detail {

template <class T>
[[nodiscard]] T& at(std::vector<T>& values, Pixel p) {
    return values[static_cast<std::size_t>(p)];
}

[[nodiscard]] inline std::vector<Pixel> increasing_order(std::span<float const> values) {
    std::vector<KeyedPixel> items(values.size());
    std::vector<KeyedPixel> scratch(values.size());
    for (std::size_t p = 0; p < values.size(); ++p)  // complemented: the sort is decreasing and stable
        items[p] = {~ordered_bits(values[p]), static_cast<Pixel>(p)};
    std::vector<Pixel> order;
    order.reserve(values.size());
    for (auto const& item : sort_decreasing(items, scratch)) order.push_back(item.pixel);
    return order;
}

// Each pixel, from the highest down, becomes the parent of the components it touches.
inline void flood_from_the_top(Grid const& grid, MaxTree& tree) {
    constexpr Pixel unseen = -1;
    tree.parent.assign(tree.order.size(), unseen);
    std::vector<Pixel> link(tree.order.size());  // disjoint sets of pixels, towards the root of each
    std::iota(link.begin(), link.end(), 0);
    for (auto i = tree.order.size(); i-- > 0;) {
        auto const p = tree.order[i];
        at(tree.parent, p) = p;
        for_each_neighbour(grid, p, [&](Pixel q) {
            if (at(tree.parent, q) == unseen) return;
            while (at(link, q) != q) q = at(link, q) = at(link, at(link, q));  // path halving
            at(tree.parent, q) = at(link, q) = p;
        });
    }
}

// From the root up: a pixel whose parent is only another pixel of the grandparent's level skips to the grandparent.
inline void make_canonical(Grid const& grid, MaxTree& tree) {
    auto const value = [&](Pixel p) { return grid.values[static_cast<std::size_t>(p)]; };
    for (auto const p : tree.order) {
        auto& parent = at(tree.parent, p);
        auto const grandparent = at(tree.parent, parent);
        if (value(grandparent) == value(parent)) parent = grandparent;
    }
}

// From the top down, pixels add up in their parents; then all pixels of a node take over what its canonical one has.
inline void count_areas(Grid const& grid, MaxTree& tree) {
    tree.area.assign(tree.order.size(), 1);
    for (auto i = tree.order.size(); i-- > 1;)
        at(tree.area, at(tree.parent, tree.order[i])) += at(tree.area, tree.order[i]);
    auto const value = [&](Pixel p) { return grid.values[static_cast<std::size_t>(p)]; };
    for (auto const p : tree.order)
        if (value(at(tree.parent, p)) == value(p)) at(tree.area, p) = at(tree.area, at(tree.parent, p));
}

}  // namespace detail

[[nodiscard]] inline MaxTree build_max_tree(Grid const& grid) {
    for (auto const value : grid.values)
        if (std::isnan(value)) throw std::invalid_argument("max_tree: the score has a NaN");
    MaxTree tree;
    tree.order = detail::increasing_order(grid.values);
    detail::flood_from_the_top(grid, tree);
    detail::make_canonical(grid, tree);
    detail::count_areas(grid, tree);
    return tree;
}

}  // namespace uflow
