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

inline Cells neighbours(uflow::Grid const& grid, Cells cells) {
    Cells found = 0;
    for (int y = 0, p = 0; y < grid.height; ++y)
        for (int x = 0; x < grid.width; ++x, ++p) {
            if (!(cells >> p & 1)) continue;
            if (y > 0) found |= Cells{1} << (p - grid.width);
            if (x > 0) found |= Cells{1} << (p - 1);
            if (x + 1 < grid.width) found |= Cells{1} << (p + 1);
            if (y + 1 < grid.height) found |= Cells{1} << (p + grid.width);
        }
    return found;
}

// All components of all upper level sets, smaller ones first.
inline std::vector<Component> components(uflow::Grid const& grid) {
    std::vector<Component> found;
    for (std::size_t seed = 0; seed < grid.values.size(); ++seed) {
        Cells above = 0;
        for (std::size_t p = 0; p < grid.values.size(); ++p)
            if (grid.values[p] >= grid.values[seed]) above |= Cells{1} << p;
        Cells cells = Cells{1} << seed;
        for (Cells before = 0; cells != before;) {
            before = cells;
            cells |= neighbours(grid, cells) & above;
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
        std::vector<std::size_t> children;
        bool closed, has_closed_parent;
        Region best;
    };
    std::vector<Node> nodes;
    for (auto const& component : components(grid)) {
        auto const log_pfa = std::popcount(component.cells) * uflow::log_tail(law, component.level);
        Node node{component, {}, true, false, {component.cells, component.level, log_pfa}};
        // Children: the largest components inside, so none that lies in another child.
        Cells covered = 0;
        for (auto i = nodes.size(); i-- > 0;) {
            auto const inside = nodes[i].component.cells;
            if ((inside & ~component.cells) || (inside & covered)) continue;
            covered |= inside;
            node.children.push_back(i);
        }
        for (auto const i : node.children) node.closed = node.closed && nodes[i].closed;
        if (node.closed && node.children.size() == 1) {
            auto const& below = nodes[node.children[0]].best;
            if (below.log_pfa <= log_pfa) node.best = below;
        } else {
            for (auto const i : node.children) node.closed = node.closed && log_pfa <= nodes[i].best.log_pfa;
        }
        if (node.closed)
            for (auto const i : node.children) nodes[i].has_closed_parent = true;
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
