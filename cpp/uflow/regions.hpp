// The regions of one map: flooded from the top, painted row by row.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "uflow/branches.hpp"
#include "uflow/buffer.hpp"
#include "uflow/chi2.hpp"
#include "uflow/flood.hpp"
#include "uflow/grid.hpp"
#include "uflow/order.hpp"
#include "uflow/summits.hpp"

namespace uflow {

struct Region {
    double log_pfa;      // area * log_tail(level), below 0
    float level;         // lowest U
    std::int32_t label;  // in its label map
    Pixel area;
    Pixel top, left, bottom, right;  // half-open
    double row, column;              // centroid
};

// Buffers that one map leaves behind for the next; hold no result.
struct Workspace {
    Buffer<std::uint8_t> kind;
    Buffer<float> outer;
    Buffer<KeyedPixel> slopes, scratch;
    Buffer<BranchId> branch_of;
    Buffer<Pixel> row;
    BranchBuffers branches;
};

namespace detail {

struct Canvas {
    std::span<float> log_pfa;
    std::span<std::int32_t> labels;
};

// A branch's region is what the branch holds at or above the region's level. Numbers regions by their first pixel.
[[nodiscard]] inline std::vector<Region> paint(Grid const& grid, Flood const& flood, Canvas const& canvas,
                                               std::span<Pixel> row) {
    auto const& branches = flood.branches;
    std::vector<Region> regions;
    regions.reserve(flood.n_regions);
    auto const& label_of = branches.link;  // done with linking
    std::fill_n(label_of.begin(), branches.size, -1);
    auto const* branch_of = flood.branch_of.data() + flood.frame.first;
    std::size_t start = 0;
    for (Pixel y = 0; y < grid.height;
         ++y, branch_of += flood.frame.stride, start += static_cast<std::size_t>(grid.width)) {
        auto* const values = grid.values.data() + start;
        auto* const labels = canvas.labels.data() + start;
        auto* const log_pfa = canvas.log_pfa.data() + start;
        std::size_t n_inside = 0;
        for (Pixel x = 0; x < grid.width; ++x) {
            auto const& b = branches[branch_of[x]];
            std::uint32_t const inside = values[x] >= b.level;
            labels[x] = -1;
            // 0 outside, by a mask: here, too, a jump would often be guessed wrong.
            log_pfa[x] = std::bit_cast<float>(std::bit_cast<std::uint32_t>(b.painted_log_pfa) & (0U - inside));
            row[n_inside] = x;
            n_inside += inside;
        }
        for (auto const x : row.first(n_inside)) {
            auto const& b = branches[branch_of[x]];
            auto& label = branches.link_of(b.parent);
            if (label < 0) {
                label = static_cast<std::int32_t>(regions.size());
                regions.push_back({b.best_log_pfa, b.best_level, label, b.best_area, y, x, y, x, 0.0, 0.0});
            }
            auto& region = regions[static_cast<std::size_t>(label)];
            region.left = std::min(region.left, x);
            region.right = std::max(region.right, x);
            region.bottom = y;
            region.row += y;
            region.column += x;
            labels[x] = label;
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
    auto const kind = room(workspace.kind, squared_norm.values.size());
    auto const outer = room(workspace.outer, static_cast<std::size_t>(squared_norm.width));
    auto const count = classify(squared_norm, law.certain_up_to, kind, outer);
    auto const frame = detail::make_frame(squared_norm);
    detail::Flood flood{law, frame, room(workspace.branch_of, frame.size),
                        make_branches(workspace.branches, count.summits), room(workspace.slopes, count.slopes + 1)};
    detail::set_out(squared_norm, kind, flood);
    detail::run_flood(flood, sort_decreasing(flood.slopes.first(count.slopes), room(workspace.scratch, count.slopes)));
    return detail::paint(squared_norm, flood, {log_pfa, labels},
                         room(workspace.row, static_cast<std::size_t>(squared_norm.width)));
}

}  // namespace uflow
