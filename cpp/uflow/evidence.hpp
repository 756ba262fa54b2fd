// Evidence: what several maps of U say about each cell of one grid, fused before any region is sought. Logs are
// natural.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
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

// The formula: what a source says about a cell whose Chernoff exponent is c, 0 up to the mean of the law. The evidence
// of several sources of one weight is the log of the product of their 1 + c.
[[nodiscard]] inline double evidence_of(double c) { return std::log(1.0 + c); }

constexpr double kMostExponent = 1e75;   // far beyond any U that is a float over any mean that is not absurd ...
constexpr std::size_t kMostFactors = 4;  // ... so that a product of so many stays finite

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

// c = k/2 (r - 1 - ln r), r = U / mean, of every cell: first as if all were near the mean, without a branch, then the
// few that are not.
inline void chernoff_exponents(Grid const& grid, Lens const& lens, std::span<double> c) {
    if (!all_valid(grid.values.data(), grid.values.size()))
        throw std::invalid_argument("values must be finite and not negative");
    auto const mean = lens.law.mean, inverse_mean = lens.law.inverse_mean, shape = lens.shape;
    auto const above = [&](std::size_t p) { return (double{grid.values[p]} - mean) * inverse_mean; };
    for (std::size_t p = 0; p < c.size(); ++p) c[p] = shape * rate_near_mean(std::max(above(p), 0.0));
    for (std::size_t p = 0; p < c.size(); ++p)
        if (above(p) >= kMostNear)
            c[p] = std::min(shape * chernoff_rate(double{grid.values[p]}, mean, inverse_mean), kMostExponent);
}

// Multiplies `product` by 1 + c, up-sampled: `wide` holds each row of cells along the finer grid, then each row of it
// lies between two of these.
inline void multiply_in(Lens const& lens, std::span<double const> c, std::span<double> wide,
                        std::span<double> product) {
    if (c.size() == product.size()) {
        for (std::size_t p = 0; p < c.size(); ++p) product[p] *= 1.0 + c[p];
        return;
    }
    auto const width = lens.columns.size();
    auto const cells = c.size() / (wide.size() / width);  // of a row
    for (std::size_t y = 0; y < wide.size() / width; ++y)
        for (std::size_t x = 0; x < width; ++x) {
            auto const [before, after, share] = lens.columns[x];
            auto const left = c[y * cells + before];
            wide[y * width + x] = left + share * (c[y * cells + after] - left);
        }
    for (std::size_t y = 0; y < lens.rows.size(); ++y) {
        auto const [above, below, share] = lens.rows[y];
        auto const *const upper = wide.data() + above * width, *const lower = wide.data() + below * width;
        auto* const to = product.data() + y * width;
        for (std::size_t x = 0; x < width; ++x) to[x] *= 1.0 + (upper[x] + share * (lower[x] - upper[x]));
    }
}

// ln x for finite x >= 1 to 1e-14, and the same bits on every machine; no branch and no call, so that compilers
// vectorise a loop of it. x = 2^e m with 1 <= m < 2, and ln m = ln 2 / 2 + 2 atanh s, s = (m - sqrt 2) / (m + sqrt 2).
[[nodiscard]] inline double vector_log(double x) {
    constexpr std::uint64_t mantissa = 0x000FFFFFFFFFFFFF, one = 0x3FF0000000000000, two_to_52 = 0x4330000000000000;
    auto const bits = std::bit_cast<std::uint64_t>(x);
    auto const e = std::bit_cast<double>((bits >> 52) | two_to_52) - 0x1p52 - 1022.5;  // with half of the ln 2
    auto const m = std::bit_cast<double>((bits & mantissa) | one);
    auto const s = (m - std::numbers::sqrt2) / (m + std::numbers::sqrt2);
    auto const q = s * s, q2 = q * q;  // at most 0.03
    auto const low = (1.0 + q * (1.0 / 3)) + q2 * (1.0 / 5 + q * (1.0 / 7));
    auto const high = (1.0 / 9 + q * (1.0 / 11)) + q2 * (1.0 / 13 + q * (1.0 / 15));
    return e * std::numbers::ln2 + 2.0 * s * (low + q2 * q2 * high);
}

// Adds the logs of `product` to `sum` and makes it 1 again.
inline void take_logs(std::span<double> product, double weight, std::span<double> sum) {
    for (std::size_t p = 0; p < sum.size(); ++p) {
        auto const log = vector_log(product[p]);
        sum[p] += product[p] > 1.0 ? weight * log : 0.0;  // nothing said is exactly nothing
        product[p] = 1.0;
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
        std::vector<double> exponents(cells), wide(cells), product(cells, 1.0), sum(cells, 0.0);
        std::size_t factors = 0;  // in the product
        for (std::size_t i = 0; i < sources.size(); ++i) {
            auto const& s = sources[i];
            auto const map = s.squared_norm + image * s.height * s.width;
            std::span const c{exponents.data(), s.height * s.width};
            detail::chernoff_exponents(make_grid(map, s.height, s.width), lenses[i], c);
            detail::multiply_in(lenses[i], c, {wide.data(), s.height * size.width}, product);
            // One logarithm does for neighbours of equal weight, as long as their product is surely finite.
            auto const is_last = i + 1 == sources.size() || lenses[i + 1].weight != lenses[i].weight;
            if (++factors == kMostFactors || is_last) {
                detail::take_logs(product, lenses[i].weight, sum);
                factors = 0;
            }
        }
        std::transform(sum.begin(), sum.end(), out + image * cells, [](double e) { return static_cast<float>(e); });
    });
}

}  // namespace uflow
