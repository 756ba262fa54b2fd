// A contrario detection of a whole batch: every map of every scale to its regions and their log10 NFA.
#pragma once

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

// One scale of a batch: `images` maps of one size, one after the other, and where their label maps go.
struct Scale {
    float const* squared_norm;
    std::size_t images, height, width;
    Background background;
    std::int32_t* labels;
};

struct Settings {
    Tests tests = Tests::by_size;
    Tail tail = Tail::chernoff;
    std::size_t threads = 0;  // 0: one per core
};

// Paints the labels of all scales and returns the regions map by map, scales changing fastest. One thread gives the
// same bits as many.
[[nodiscard]] inline std::vector<std::vector<Region>> detect(std::span<Scale const> scales, Settings const& settings) {
    std::vector<std::size_t> cells;
    std::vector<TailLaw> laws;
    std::size_t pixels = 0;
    for (auto const& scale : scales) {
        if (scale.images != scales.front().images) throw std::invalid_argument("all scales need the same images");
        cells.push_back(make_grid(scale.squared_norm, scale.height, scale.width).values.size());
        laws.push_back(make_tail_law(scale.background, settings.tail));
        pixels += scale.images * cells.back();
    }
    NumberOfTests const log_n_tests(cells, settings.tests);

    auto const images = scales.front().images;
    std::vector<std::vector<Region>> maps(images * scales.size());
    std::vector<Workspace> workspaces(useful_threads(settings.threads, maps.size(), pixels));
    // Scale by scale: the large maps of the finest scale start first and the small ones fill the gaps.
    for_each_in_parallel(maps.size(), workspaces.size(), [&](std::size_t job, std::size_t worker) {
        auto const s = job / images;
        auto const image = job % images;
        auto const offset = image * cells[s];
        auto const grid = make_grid(scales[s].squared_norm + offset, scales[s].height, scales[s].width);
        auto& regions = maps[image * scales.size() + s];
        regions = find_regions(grid, laws[s], {scales[s].labels + offset, cells[s]}, workspaces[worker]);
        for (auto& region : regions) {
            region.image = static_cast<std::int32_t>(image);
            region.scale = static_cast<std::int32_t>(s);
            region.log_nfa = log_n_tests(region.area) + region.log_pfa;
        }
    });
    return maps;
}

}  // namespace uflow
