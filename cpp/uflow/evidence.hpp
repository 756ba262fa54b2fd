// Evidence: what several maps of U say about each cell of one grid, fused before any region is sought. Logs are
// natural.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <stdexcept>
#include <vector>

#include "uflow/chi2.hpp"
#include "uflow/flood.hpp"
#include "uflow/grid.hpp"
#include "uflow/parallel.hpp"

namespace uflow {

// One source of a batch: `images` maps of one size, one after the other, their law on good images, and what they count.
struct Source {
    float const* squared_norm;
    std::size_t images, height, width;
    Background background;
    double weight;
};

struct Size {
    std::size_t height, width;
};

// The formula: what a source says about a cell whose Chernoff exponent is c, 0 up to the mean of the law.
[[nodiscard]] inline double evidence_of(double c) { return std::log(1.0 + c); }

namespace detail {

// The cells before and after the centre of a finer cell (align_corners=False), and the share of the second.
struct Taps {
    std::size_t before, after;
    double share;
};

[[nodiscard]] inline std::vector<Taps> make_taps(std::size_t cells, std::size_t finer) {
    std::vector<Taps> taps(finer);
    auto const ratio = static_cast<double>(cells) / static_cast<double>(finer);
    for (std::size_t i = 0; i < finer; ++i) {
        auto const centre = (static_cast<double>(i) + 0.5) * ratio - 0.5;
        auto const position = std::clamp(centre, 0.0, static_cast<double>(cells - 1));
        auto const before = static_cast<std::size_t>(position);
        taps[i] = {before, std::min(before + 1, cells - 1), position - static_cast<double>(before)};
    }
    return taps;
}

// A source ready for its maps.
struct Lens {
    TailLaw law;
    double shape, weight;
    std::vector<Taps> rows, columns;
};

// c = k/2 (r - 1 - ln r), r = U / mean, of every cell.
inline void chernoff_exponents(Grid const& grid, Lens const& lens, std::span<double> c) {
    if (!all_valid(grid.values.data(), grid.values.size()))
        throw std::invalid_argument("values must be finite and not negative");
    for (std::size_t p = 0; p < c.size(); ++p) {
        auto const u = double{grid.values[p]};
        c[p] = u > lens.law.mean ? lens.shape * chernoff_rate(u, lens.law.mean, lens.law.inverse_mean) : 0.0;
    }
}

// Adds what a map says to `sum`, up-sampled: each row of the finer grid first between two rows of cells, then along it.
inline void add_evidence(Lens const& lens, std::span<double const> c, std::span<double> row, std::span<double> sum) {
    for (std::size_t y = 0; y < lens.rows.size(); ++y) {
        auto const [above, below, share] = lens.rows[y];
        for (std::size_t x = 0; x < row.size(); ++x) {
            auto const upper = c[above * row.size() + x];
            row[x] = upper + share * (c[below * row.size() + x] - upper);
        }
        auto* const to = sum.data() + y * lens.columns.size();
        for (std::size_t x = 0; x < lens.columns.size(); ++x) {
            auto const& taps = lens.columns[x];
            auto const between = row[taps.before] + taps.share * (row[taps.after] - row[taps.before]);
            if (between > 0.0) to[x] += lens.weight * evidence_of(between);
        }
    }
}

}  // namespace detail

// The grid that evidence lives on: as high as the highest map and as wide as the widest.
[[nodiscard]] inline Size size_of_evidence(std::span<Source const> sources) {
    if (sources.empty()) throw std::invalid_argument("evidence needs at least one source");
    Size size{0, 0};
    for (auto const& source : sources) {
        (void)make_grid(source.squared_norm, source.height, source.width);
        if (source.images != sources.front().images) throw std::invalid_argument("all sources need the same images");
        size = {std::max(size.height, source.height), std::max(size.width, source.width)};
    }
    (void)make_grid(nullptr, size.height, size.width);
    return size;
}

// Weighted mean over sources of what they say, into `out` (images, height, width) of that size.
inline void fuse_evidence(std::span<Source const> sources, float* out, std::size_t threads) {
    auto const size = size_of_evidence(sources);
    double weights = 0.0;
    for (auto const& source : sources) {
        if (!(std::isfinite(source.weight) && source.weight >= 0.0))
            throw std::invalid_argument("weights must be finite and not negative");
        weights += source.weight;
    }
    if (!(weights > 0.0 && std::isfinite(weights))) throw std::invalid_argument("weights need a positive, finite sum");
    std::vector<detail::Lens> lenses;
    for (auto const& s : sources)
        lenses.push_back({make_tail_law(s.background, Tail::chernoff), 0.5 * s.background.degrees_of_freedom,
                          s.weight / weights, detail::make_taps(s.height, size.height),
                          detail::make_taps(s.width, size.width)});

    auto const images = sources.front().images;
    auto const cells = size.height * size.width;
    auto const workers = useful_threads(threads, images, images * cells);
    for_each_in_parallel(images, workers, [&](std::size_t image, std::size_t) {
        std::vector<double> exponents(cells), row(size.width), sum(cells, 0.0);
        for (std::size_t i = 0; i < sources.size(); ++i) {
            auto const& s = sources[i];
            auto const map = s.squared_norm + image * s.height * s.width;
            std::span const c{exponents.data(), s.height * s.width};
            detail::chernoff_exponents(make_grid(map, s.height, s.width), lenses[i], c);
            detail::add_evidence(lenses[i], c, {row.data(), s.width}, sum);
        }
        std::transform(sum.begin(), sum.end(), out + image * cells, [](double e) { return static_cast<float>(e); });
    });
}

}  // namespace uflow
