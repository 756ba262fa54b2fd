// The regions of one map: flooded from the top, painted row by row.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "uflow/branches.hpp"
#include "uflow/chi2.hpp"
#include "uflow/flood.hpp"
#include "uflow/grid.hpp"
#include "uflow/memory.hpp"
#include "uflow/order.hpp"

namespace uflow {

// A row of the table of regions. Where the map stands in its batch, `detect` fills in.
struct Region {
    Pixel top, left, bottom, right;  // half-open
    Pixel area;
    std::int32_t label;  // in its label map
    double row, column;  // centroid
    float level, peak;   // lowest and highest value
    double total;        // sum of all values
    double log_pfa;      // area * log_tail(level), below 0
    double log_nfa = 0.0;
    std::int32_t image = 0, scale = 0;
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

// A branch's region is what the branch holds at or above the region's level. Numbers regions by their first pixel.
[[nodiscard]] inline std::vector<Region> paint(Grid const& grid, Flood const& flood, std::int32_t* labels,
                                               std::span<Pixel> row) {
    auto const& branches = flood.branches;
    std::vector<Region> regions;
    regions.reserve(flood.n_regions);
    auto const& label_of = branches.link;  // done with linking
    std::fill_n(label_of.begin(), branches.size, -1);
    auto const* branch_of = flood.branch_of.data() + flood.frame.first;
    auto const* values = grid.values.data();
    for (Pixel y = 0; y < grid.height;
         ++y, branch_of += flood.frame.stride, values += grid.width, labels += grid.width) {
        std::size_t n_inside =
            0;  // written down for every pixel and counted where it is: a jump would be guessed wrong
        for (Pixel x = 0; x < grid.width; ++x) {
            labels[x] = -1;
            row[n_inside] = x;
            n_inside += values[x] >= branches[branch_of[x]].level;
        }
        for (auto const x : row.first(n_inside)) {
            auto const& b = branches[branch_of[x]];
            auto& label = branches.link_of(b.parent);
            if (label < 0) {
                label = static_cast<std::int32_t>(regions.size());
                regions.push_back({y, x, y, x, b.best_area, label, 0.0, 0.0, b.best_level, 0.0F, 0.0, b.best_log_pfa});
            }
            auto& region = regions[static_cast<std::size_t>(label)];
            region.left = std::min(region.left, x);
            region.right = std::max(region.right, x);
            region.bottom = y;
            region.row += y;
            region.column += x;
            region.peak = std::max(region.peak, values[x]);
            region.total += double{values[x]};
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

// Regions of a map of finite values that are not negative, in the order of their labels; paints `labels`, -1 outside.
[[nodiscard]] inline std::vector<Region> find_regions(Grid const& grid, TailLaw const& law,
                                                      std::span<std::int32_t> labels, Workspace& workspace) {
    auto const width = static_cast<std::size_t>(grid.width);
    auto const kind = room(workspace.kind, grid.values.size());
    auto const count = detail::classify(grid, law.certain_up_to, kind, room(workspace.outer, width));
    auto const frame = detail::make_frame(grid);
    detail::Flood flood{law, frame, room(workspace.branch_of, frame.size),
                        make_branches(workspace.branches, count.summits), room(workspace.slopes, count.slopes + 1)};
    detail::set_out(grid, kind, flood);
    detail::run_flood(flood, sort_decreasing(flood.slopes.first(count.slopes), room(workspace.scratch, count.slopes)));
    return detail::paint(grid, flood, labels.data(), room(workspace.row, width));
}

}  // namespace uflow
