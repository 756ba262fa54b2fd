// Branches: chains of nodes of the max-tree as they grow, prune and merge while their map is flooded from the top.
//
// The iterated PFA prune and PFA merge (paper section 4) come to this (children before parents): a leaf of the max-tree
// is *closed* with best = itself; a node with one child is closed if the child is, best = the lower log PFA of the
// child's best and itself (ties: the child's); a node with several children is closed with best = itself if all of them
// are closed and its log PFA is <= all their bests; any other node is *open*. The regions are the bests of the maximal
// closed nodes.
//
// Nothing above an open node can be closed again, so of open nodes nothing has to be known but that they are: no tree
// is built, no set is united and no tail is evaluated there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "uflow/chi2.hpp"
#include "uflow/grid.hpp"
#include "uflow/memory.hpp"

namespace uflow {

using BranchId = std::int32_t;

constexpr BranchId kOutside = 0;  // of pixels that have not been flooded
constexpr BranchId kOpen = 1;     // of pixels of open nodes
constexpr BranchId kFirstBranch = 2;

// The node in progress, which may still get pixels of its level, and the best of the completed ones.
struct Branch {
    double best_log_pfa;  // of a merge in progress: the lowest of its children, to be reached
    float best_level;
    Pixel best_area;  // kNone: no node is complete yet; kMerging: a merge that has not paid off (yet)
    float level;      // of the node in progress
    Pixel area;       // of the node in progress, so far
    BranchId parent;  // the branch it grew into, always of a higher number; kOutside if none
};

constexpr Pixel kNone = 0;
constexpr Pixel kMerging = -1;

// A view of the branches of one map. `link` is a union-find towards the root; kOpen once a branch has met an open node.
struct Branches {
    std::span<BranchId> link;
    std::span<Branch> all;
    BranchId size = kFirstBranch;

    Branch& operator[](BranchId id) const { return all[static_cast<std::size_t>(id)]; }
    BranchId& link_of(BranchId id) const { return link[static_cast<std::size_t>(id)]; }
};

// Buffers of the branches of one map.
struct BranchBuffers {
    Buffer<BranchId> link;
    Buffer<Branch> all;
};

inline void start_branch(Branches const& branches, BranchId id, float level) {
    branches.link_of(id) = id;
    branches[id] = {std::numeric_limits<double>::infinity(), level, kNone, level, 1, kOutside};
}

// Every merge leaves one root less, so there are fewer than twice as many branches as summits.
[[nodiscard]] inline Branches make_branches(BranchBuffers& buffers, std::size_t summits) {
    auto const most = static_cast<std::size_t>(kFirstBranch) + 2 * summits + 1;
    Branches const branches{room(buffers.link, most), room(buffers.all, most)};
    for (auto const id : {kOutside, kOpen}) branches.link_of(id) = id;
    return branches;
}

// The branch at the end of the links: a branch still growing, kOpen, or kOutside for kOutside.
[[nodiscard]] inline BranchId find_root(Branches const& branches, BranchId id) {
    for (auto link = branches.link_of(id); link != id; link = branches.link_of(id))
        id = branches.link_of(id) = branches.link_of(link);  // path halving
    return id;
}

// The node in progress has got its last pixel. Returns whether it is closed.
inline bool complete(Branches const& branches, BranchId id, TailLaw const& law) {
    auto& b = branches[id];
    auto const log_pfa = b.area * log_tail(law, double{b.level});
    if (b.best_area == kMerging ? log_pfa <= b.best_log_pfa : log_pfa < b.best_log_pfa) {
        b.best_log_pfa = log_pfa;
        b.best_level = b.level;
        b.best_area = b.area;
    }
    if (b.best_area != kMerging) return true;
    branches.link_of(id) = kOpen;
    return false;
}

// A pixel joins the only branch around it.
inline void extend(Branches const& branches, BranchId id, float level) {
    auto& b = branches[id];
    b.level = level;
    ++b.area;
}

// A new branch from several roots, by a pixel at `level`, which may be the level of their nodes in progress.
[[nodiscard]] inline BranchId merge(Branches& branches, std::span<BranchId const> roots, float level) {
    auto const id = branches.size++;
    start_branch(branches, id, level);
    auto& node = branches[id];
    int children = 0;
    for (auto const root : roots) {
        auto& b = branches[root];
        node.area += b.area;
        b.parent = id;
        branches.link_of(root) = id;
        if (b.best_area == kNone) continue;  // a piece of this very node
        ++children;
        if (b.best_log_pfa < node.best_log_pfa) {
            node.best_log_pfa = b.best_log_pfa;
            node.best_level = b.best_level;
            node.best_area = b.best_area;
        }
    }
    if (children > 1)
        node.best_area = kMerging;  // with one child it is the child's: kMerging, too, of a merge in progress
    return id;
}

// After the flood: every branch takes over the best of the branch that absorbed it, if one did. `parent` becomes the
// branch that speaks for it, `level` the level from which on its pixels belong to the region: infinite if there is
// none. Returns the number of regions.
[[nodiscard]] inline std::size_t settle(Branches const& branches) {
    std::size_t n_regions = 0;
    constexpr auto nowhere = std::numeric_limits<float>::infinity();
    for (auto const id : {kOutside, kOpen}) branches[id] = {0.0, nowhere, kMerging, nowhere, 0, kOutside};
    for (auto id = branches.size; id-- > kFirstBranch;) {
        auto& b = branches[id];
        auto const& parent = branches[b.parent];
        if (parent.best_area != kMerging) {
            b = parent;
            continue;
        }
        bool const region = b.best_area > 0 && b.best_log_pfa < 0.0;
        b.parent = id;
        b.level = region ? b.best_level : nowhere;
        n_regions += region;
    }
    return n_regions;
}

}  // namespace uflow
