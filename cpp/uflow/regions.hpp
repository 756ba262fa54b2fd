// The regions of one map: PFA prune and PFA merge (paper section 4) brought to their fixpoint in one flood from the
// top.
//
// The iterated prune/merge comes to this (children before parents): a leaf of the max-tree is *closed* with best =
// itself; a node with one child is closed if the child is, best = the lower log PFA of the child's best and itself
// (ties: the child's); a node with several children is closed with best = itself if all of them are closed and its log
// PFA is <= all their bests; any other node is *open*. The regions are the bests of the maximal closed nodes.
//
// Nothing above an open node can be closed again, so an open pixel only has to be known as such: no tree is built, no
// set is united and no tail is evaluated there. And where the law gives a probability of 1 (the clamped bound below the
// mean) a log PFA of 0 can neither lower a best nor absorb a region: such pixels are not even sorted.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <vector>

#include "uflow/chi2.hpp"
#include "uflow/grid.hpp"
#include "uflow/order.hpp"

namespace uflow {

struct Region {
    double log_pfa;  // area * log_tail(level), below 0
    float level;     // lowest U
    Pixel area;
    Pixel top, left, bottom, right;  // half-open
    double row, column;              // centroid
};

// A chain of nodes of the max-tree while it grows: the node in progress, and the best of the completed ones.
struct Branch {
    std::int32_t link;    // union-find: towards the root; kOpen once it has met an open node
    std::int32_t parent;  // the branch it grew into, always of a higher number; -1 if none
    float level;          // of the node in progress
    Pixel area;           // so far
    double best_log_pfa;  // of a merge in progress: the lowest of its children, to be reached
    float best_level;
    Pixel best_area;  // 0: no node has been completed yet
    bool absorbs;     // false: a merge that has not paid off (yet); its children stand for themselves
};

// Buffers that one map leaves behind for the next; hold no result.
struct Workspace {
    std::vector<KeyedPixel> pixels, scratch;
    std::vector<Branch> branches;
};

namespace detail {

constexpr std::int32_t kOutside = -1;  // not flooded (yet)
constexpr std::int32_t kOpen = -2;

class Flood {
 public:
    Flood(Grid const& grid, TailLaw const& law, std::span<std::int32_t> branch_of, Workspace& workspace)
        : grid_(grid), law_(law), branch_of_(branch_of), workspace_(workspace), branches_(workspace.branches) {}

    void run() {
        start_branches_at_summits();
        auto const rest = sort_decreasing(workspace_.pixels, workspace_.scratch);
        for (auto const& item : rest) add(item.pixel);
        for (std::size_t b = 0; b < branches_.size(); ++b)
            if (branches_[b].link == static_cast<std::int32_t>(b)) complete(static_cast<std::int32_t>(b));
        let_the_absorbed_go();
    }

 private:
    // A summit comes before all its neighbours (higher, ties: lower number), so it needs no sorting.
    void start_branches_at_summits() {
        auto const& value = grid_.values;
        auto& pixels = workspace_.pixels;
        branches_.clear();
        pixels.clear();
        bool valid = true;
        for (Pixel y = 0, p = 0; y < grid_.height; ++y) {
            for (Pixel x = 0; x < grid_.width; ++x, ++p) {
                auto const i = static_cast<std::size_t>(p);
                auto const v = value[i];
                valid &= v >= 0.0F && v <= std::numeric_limits<float>::max();
                branch_of_[i] = kOutside;
                if (!(v > law_.certain_up_to)) continue;
                auto const width = static_cast<std::size_t>(grid_.width);
                bool const summit = (y == 0 || v > value[i - width]) && (x == 0 || v > value[i - 1]) &&
                                    (x + 1 == grid_.width || v >= value[i + 1]) &&
                                    (y + 1 == grid_.height || v >= value[i + width]);
                if (summit)
                    branch_of_[i] = new_branch(v, 1);
                else
                    pixels.push_back({ordered_bits(v), p});
            }
        }
        if (!valid) throw std::invalid_argument("squared norms must be finite and not negative");
        workspace_.scratch.resize(pixels.size());
    }

    std::int32_t new_branch(float level, Pixel area) {
        auto const id = static_cast<std::int32_t>(branches_.size());
        branches_.push_back({id, -1, level, area, std::numeric_limits<double>::infinity(), level, 0, true});
        return id;
    }

    Branch& branch(std::int32_t id) { return branches_[static_cast<std::size_t>(id)]; }

    // The branch's root, or kOpen.
    std::int32_t find(std::int32_t id) {
        for (auto link = branch(id).link; link != id; link = branch(id).link) {
            if (link == kOpen) return kOpen;
            auto const next = branch(link).link;
            branch(id).link = next;  // path halving
            if (next == kOpen) return kOpen;
            id = next;
        }
        return id;
    }

    // The node in progress has got its last pixel. Returns whether it is closed.
    bool complete(std::int32_t id) {
        auto& b = branch(id);
        auto const log_pfa = b.area * log_tail(law_, b.level);
        if (b.absorbs ? log_pfa < b.best_log_pfa : log_pfa <= b.best_log_pfa) {
            b.absorbs = true;
            b.best_log_pfa = log_pfa;
            b.best_level = b.level;
            b.best_area = b.area;
        }
        if (!b.absorbs) b.link = kOpen;
        return b.absorbs;
    }

    // Pixel p joins the nodes around it, all of them as high as p or higher.
    void add(Pixel p) {
        auto const level = grid_.values[static_cast<std::size_t>(p)];
        std::int32_t around[4];
        int n_around = 0;
        bool open = false;
        for_each_neighbour(grid_, p, [&](Pixel q) {
            auto const id = branch_of_[static_cast<std::size_t>(q)];
            if (id == kOutside) return;
            auto const root = id == kOpen ? kOpen : find(id);
            if (root == kOpen) {
                open = true;
                return;
            }
            for (int i = 0; i < n_around; ++i)
                if (around[i] == root) return;
            if (branch(root).level > level && !complete(root))
                open = true;
            else
                around[n_around++] = root;
        });
        auto const roots = std::span<std::int32_t const>(around, static_cast<std::size_t>(n_around));
        branch_of_[static_cast<std::size_t>(p)] = open ? cut(roots) : join(roots, level);
    }

    // An open node takes no part: what has been completed below stays as it is.
    std::int32_t cut(std::span<std::int32_t const> roots) {
        for (auto const id : roots) branch(id).link = kOpen;
        return kOpen;
    }

    std::int32_t join(std::span<std::int32_t const> roots, float level) {
        if (roots.size() == 1) {
            auto& only = branch(roots[0]);
            only.level = level;
            ++only.area;
            return roots[0];
        }
        auto const id = new_branch(level, 1);
        auto& node = branch(id);
        int children = 0;
        for (auto const root : roots) {
            auto& b = branch(root);
            node.area += b.area;
            b.link = b.parent = id;
            bool const merge_in_progress = !b.absorbs;
            if (!merge_in_progress && b.best_area == 0) continue;  // a piece of this very node
            children += merge_in_progress ? 2 : 1;
            if (b.best_log_pfa < node.best_log_pfa) {
                node.best_log_pfa = b.best_log_pfa;
                node.best_level = b.best_level;
                node.best_area = b.best_area;
            }
        }
        if (children > 1) {
            node.absorbs = false;
            node.best_area = 0;
        }
        return id;
    }

    // From the last branch to the first: `parent` becomes the branch that speaks for it, -1 where no region is left.
    void let_the_absorbed_go() {
        for (auto id = static_cast<std::int32_t>(branches_.size()); id-- > 0;) {
            auto& b = branch(id);
            if (b.parent >= 0 && branch(b.parent).absorbs) {
                b.absorbs = true;
                b.parent = branch(b.parent).parent;
            } else {
                b.parent = b.absorbs && b.best_area > 0 && b.best_log_pfa < 0.0 ? id : -1;
            }
        }
    }

    Grid grid_;
    TailLaw law_;
    std::span<std::int32_t> branch_of_;
    Workspace& workspace_;
    std::vector<Branch>& branches_;
};

// A branch's region is what the branch holds at or above the region's level. Numbers regions by their first pixel.
[[nodiscard]] inline std::vector<Region> paint(Grid const& grid, std::span<float> log_pfa,
                                               std::span<std::int32_t> labels, std::vector<Branch>& branches) {
    std::vector<Region> regions;
    for (auto& b : branches) b.link = -1;  // from here on: the region's label
    for (Pixel y = 0, p = 0; y < grid.height; ++y) {
        for (Pixel x = 0; x < grid.width; ++x, ++p) {
            auto const i = static_cast<std::size_t>(p);
            auto const id = labels[i];
            labels[i] = -1;
            log_pfa[i] = 0.0F;
            if (id < 0) continue;
            auto const speaker = branches[static_cast<std::size_t>(id)].parent;
            if (speaker < 0) continue;
            auto& b = branches[static_cast<std::size_t>(speaker)];
            if (grid.values[i] < b.best_level) continue;
            if (b.link < 0) {
                b.link = static_cast<std::int32_t>(regions.size());
                regions.push_back({b.best_log_pfa, b.best_level, b.best_area, y, x, y, x, 0.0, 0.0});
            }
            auto& region = regions[static_cast<std::size_t>(b.link)];
            region.left = std::min(region.left, x);
            region.right = std::max(region.right, x);
            region.bottom = y;
            region.row += y;
            region.column += x;
            labels[i] = b.link;
            log_pfa[i] = static_cast<float>(std::max(b.best_log_pfa, -double{std::numeric_limits<float>::max()}));
        }
    }
    for (auto& region : regions) {
        ++region.bottom;
        ++region.right;
        region.row /= region.area;
        region.column /= region.area;
    }
    return regions;
}

}  // namespace detail

// Regions of `squared_norm` in the order of their labels; paints both maps, 0 and -1 where there is no region.
[[nodiscard]] inline std::vector<Region> find_regions(Grid const& squared_norm, TailLaw const& law,
                                                      std::span<float> log_pfa, std::span<std::int32_t> labels,
                                                      Workspace& workspace) {
    detail::Flood(squared_norm, law, labels, workspace).run();
    return detail::paint(squared_norm, log_pfa, labels, workspace.branches);
}

}  // namespace uflow
