// Reference for maps of at most 64 cells: a set of cells is a 64-bit mask, a component is found by flood fill, and the
// regions by the definition of closed nodes. Shares nothing with the core but the tail law and the grid.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "uflow/chi2.hpp"
#include "uflow/grid.hpp"

namespace oracle {

using Cells = std::uint64_t;

struct Component {
    Cells cells;
    float level;
};

struct Region {
    Cells cells;
    float level;
    double log_pfa;
};

// The cells of the first and the last column and of the whole map.
struct Frame {
    Cells left, right, all;
    int width;
};

inline Frame make_frame(uflow::Grid const& grid) {
    Frame frame{0, 0, ~Cells{0} >> (64 - grid.values.size()), grid.width};
    for (int y = 0; y < grid.height; ++y) frame.left |= Cells{1} << (y * grid.width);
    frame.right = frame.left << (grid.width - 1);
    return frame;
}

inline Cells neighbours(Frame const& frame, Cells cells) {
    auto const below = frame.width < 64 ? cells << frame.width : 0;
    auto const above = frame.width < 64 ? cells >> frame.width : 0;
    return (below | above | (cells & ~frame.left) >> 1 | (cells & ~frame.right) << 1) & frame.all;
}

// All components of all upper level sets, smaller ones first.
inline std::vector<Component> components(uflow::Grid const& grid) {
    auto const frame = make_frame(grid);
    std::vector<Component> found;
    found.reserve(grid.values.size());
    for (std::size_t seed = 0; seed < grid.values.size(); ++seed) {
        Cells above = 0;
        for (std::size_t p = 0; p < grid.values.size(); ++p)
            if (grid.values[p] >= grid.values[seed]) above |= Cells{1} << p;
        Cells cells = Cells{1} << seed;
        for (Cells before = 0; cells != before;) {
            before = cells;
            cells |= neighbours(frame, cells) & above;
        }
        auto const known = [&](Component const& c) { return c.cells == cells; };
        if (std::none_of(found.begin(), found.end(), known)) found.push_back({cells, grid.values[seed]});
    }
    std::sort(found.begin(), found.end(),
              [](Component const& a, Component const& b) { return std::popcount(a.cells) < std::popcount(b.cells); });
    return found;
}

// The bests of the maximal closed nodes, of log PFA below 0, in the order of their first cells.
inline std::vector<Region> regions(uflow::Grid const& grid, uflow::TailLaw const& law) {
    struct Node {
        Component component;
        std::uint64_t children;  // a bit per node, of which there are no more than cells
        bool closed, has_closed_parent;
        Region best;
    };
    std::vector<Node> nodes;
    nodes.reserve(grid.values.size());
    for (auto const& component : components(grid)) {
        auto const log_pfa = std::popcount(component.cells) * uflow::log_tail(law, component.level);
        Node node{component, 0, true, false, {component.cells, component.level, log_pfa}};
        // Children: the largest components inside, so none that lies in another child.
        Cells covered = 0;
        for (auto i = nodes.size(); i-- > 0;) {
            auto const inside = nodes[i].component.cells;
            if ((inside & ~component.cells) || (inside & covered)) continue;
            covered |= inside;
            node.children |= std::uint64_t{1} << i;
        }
        auto const all_children = [&](auto&& holds) {
            for (std::size_t i = 0; i < nodes.size(); ++i)
                if (node.children >> i & 1 && !holds(nodes[i])) return false;
            return true;
        };
        node.closed = all_children([](Node const& child) { return child.closed; });
        if (node.closed && std::popcount(node.children) == 1) {
            auto const& below = nodes[static_cast<std::size_t>(std::countr_zero(node.children))].best;
            if (below.log_pfa <= log_pfa) node.best = below;
        } else {
            node.closed = node.closed && all_children([&](Node const& child) { return log_pfa <= child.best.log_pfa; });
        }
        for (std::size_t i = 0; node.closed && i < nodes.size(); ++i)
            nodes[i].has_closed_parent |= (node.children >> i & 1) != 0;
        nodes.push_back(node);
    }
    std::vector<Region> found;
    for (auto const& node : nodes)
        if (node.closed && !node.has_closed_parent && node.best.log_pfa < 0.0) found.push_back(node.best);
    std::sort(found.begin(), found.end(),
              [](Region const& a, Region const& b) { return std::countr_zero(a.cells) < std::countr_zero(b.cells); });
    return found;
}

}  // namespace oracle
