// A contrario detection of a whole batch: every map of every scale to its regions and their log10 NFA.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

#include "uflow/chi2.hpp"
#include "uflow/grid.hpp"
#include "uflow/number_of_tests.hpp"
#include "uflow/parallel.hpp"
#include "uflow/regions.hpp"

namespace uflow {

// One scale of a batch: `images` maps of one size, one after the other, and where their results go.
struct Scale {
    float const* squared_norm;
    std::size_t images, height, width;
    Background background;
    float* log_pfa;
    std::int32_t* labels;
};

struct Settings {
    Tests tests = Tests::by_size;
    Tail tail = Tail::chernoff;
    double keep_below = 0.0;  // the table holds the regions of log_nfa < keep_below
    std::size_t threads = 0;  // 0: one per core
};

// One row per region, ordered by image, scale, label.
struct RegionTable {
    std::vector<std::int32_t> image, scale, label;
    std::vector<double> level, log_pfa, log_nfa;
    std::vector<std::int64_t> area;
    std::vector<std::int32_t> top, left, bottom, right;
    std::vector<double> row, column;
};

template <class Visit>
void for_each_column(RegionTable& t, Visit&& visit) {
    for (auto* column : {&t.image, &t.scale, &t.label, &t.top, &t.left, &t.bottom, &t.right}) visit(*column);
    for (auto* column : {&t.level, &t.log_pfa, &t.log_nfa, &t.row, &t.column}) visit(*column);
    visit(t.area);
}

// log10 N_T of a region, ready to be asked for many areas; most regions are small.
struct NumberOfTests {
    Tests tests;
    double constant;
    std::array<double, 16> of_small;

    [[nodiscard]] double operator()(Pixel area) const {
        if (static_cast<std::size_t>(area) < of_small.size()) return of_small[static_cast<std::size_t>(area)];
        return tests == Tests::paper ? constant : log_n_tests_by_size(constant, area);
    }
};

[[nodiscard]] inline NumberOfTests make_number_of_tests(std::span<std::size_t const> cells, Tests tests) {
    NumberOfTests log_n_tests{
        tests, tests == Tests::paper ? uflow::log_n_tests(cells) : log_n_positions_and_sizes(cells), {}};
    for (std::size_t area = 0; area < log_n_tests.of_small.size(); ++area)
        log_n_tests.of_small[area] = tests == Tests::paper
                                         ? log_n_tests.constant
                                         : log_n_tests_by_size(log_n_tests.constant, static_cast<double>(area));
    return log_n_tests;
}

namespace detail {

// Regions of log NFA below the limit; what is left out leaves its memory, too.
inline void keep_only(std::vector<Region>& regions, NumberOfTests const& log_n_tests, double keep_below) {
    std::erase_if(regions, [&](Region const& r) { return !(log_n_tests(r.area) + r.log_pfa < keep_below); });
    regions.shrink_to_fit();
}

// `maps` holds the regions of each image and scale, scales changing fastest.
[[nodiscard]] inline RegionTable make_table(std::span<std::vector<Region> const> maps, std::size_t scales,
                                            NumberOfTests const& log_n_tests) {
    std::size_t size = 0;
    for (auto const& regions : maps) size += regions.size();
    RegionTable table;
    for_each_column(table, [&](auto& column) { column.resize(size); });
    std::size_t row = 0;
    for (std::size_t map = 0; map < maps.size(); ++map) {
        for (auto const& region : maps[map]) {
            table.image[row] = static_cast<std::int32_t>(map / scales);
            table.scale[row] = static_cast<std::int32_t>(map % scales);
            table.label[row] = region.label;
            table.level[row] = double{region.level};
            table.log_pfa[row] = region.log_pfa;
            table.log_nfa[row] = log_n_tests(region.area) + region.log_pfa;
            table.area[row] = region.area;
            table.top[row] = region.top;
            table.left[row] = region.left;
            table.bottom[row] = region.bottom;
            table.right[row] = region.right;
            table.row[row] = region.row;
            table.column[row] = region.column;
            ++row;
        }
    }
    return table;
}

[[nodiscard]] inline std::vector<std::size_t> cells_of(std::span<Scale const> scales) {
    std::vector<std::size_t> cells;
    for (auto const& scale : scales) {
        if (scale.images != scales.front().images) throw std::invalid_argument("all scales need the same images");
        cells.push_back(make_grid(scale.squared_norm, scale.height, scale.width).values.size());
    }
    return cells;
}

}  // namespace detail

// Paints log_pfa and labels of all scales and returns the table. One thread gives the same bits as many.
[[nodiscard]] inline RegionTable detect(std::span<Scale const> scales, Settings const& settings) {
    auto const cells = detail::cells_of(scales);
    auto const log_n_tests = make_number_of_tests(cells, settings.tests);
    std::vector<TailLaw> laws;
    for (auto const& scale : scales) laws.push_back(make_tail_law(scale.background, settings.tail));

    auto const images = scales.front().images;
    auto const maps = images * scales.size();
    std::size_t pixels = 0;
    for (auto const n : cells) pixels += images * n;
    std::vector<std::vector<Region>> regions(maps);
    std::vector<Workspace> workspaces(useful_threads(settings.threads, maps, pixels));
    // Scale by scale: the large maps of the finest scale start first and the small ones fill the gaps.
    for_each_in_parallel(maps, workspaces.size(), [&](std::size_t job, std::size_t worker) {
        auto const s = job / images;
        auto const image = job % images;
        auto const& scale = scales[s];
        auto const offset = image * cells[s];
        auto const grid = make_grid(scale.squared_norm + offset, scale.height, scale.width);
        auto& found = regions[image * scales.size() + s];
        found = find_regions(grid, laws[s], {scale.log_pfa + offset, cells[s]}, {scale.labels + offset, cells[s]},
                             workspaces[worker]);
        detail::keep_only(found, log_n_tests, settings.keep_below);
    });
    return detail::make_table(regions, scales.size(), log_n_tests);
}

}  // namespace uflow
