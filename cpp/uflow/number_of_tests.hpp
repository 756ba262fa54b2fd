// The number of regions that could have been tested, log10 N_T: a constant of the grids' sizes.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <span>
#include <stdexcept>

#include "uflow/grid.hpp"

namespace uflow {

enum class Tests {
    paper,    // paper eq. 9: every region is charged for all shapes of all sizes
    by_size,  // the same budget split evenly over sizes: a region is charged for the shapes of its own size
};

// About alpha beta^n / n polyominoes of n cells (Jensen, Guttmann, "Statistics of lattice animals (polyominoes) and
// polygons", J. Phys. A 33 (2000) L257).
constexpr double kPolyominoAlpha = 0.316915;
constexpr double kPolyominoBeta = 4.062570;

namespace detail {

inline void check_cells(std::span<std::size_t const> cells) {
    if (cells.empty()) throw std::invalid_argument("the number of tests needs at least one grid");
    if (*std::min_element(cells.begin(), cells.end()) == 0)
        throw std::invalid_argument("a grid needs at least one cell");
}

// log10 of n * sum_{r=1..n} alpha beta^r / r, summed from the largest term down: r = n - j, so nothing overflows.
[[nodiscard]] inline double log_n_tests_of_grid(std::size_t cells) {
    auto const n = static_cast<double>(cells);
    double sum = 0.0;
    double power = 1.0;  // beta^-j
    for (double j = 0.0; j < n && power > 1e-20; j += 1.0, power /= kPolyominoBeta) sum += power * n / (n - j);
    return std::log10(kPolyominoAlpha * sum) + n * std::log10(kPolyominoBeta);
}

}  // namespace detail

// Paper eq. 9: log10 of sum_s |grid_s| sum_{r <= |grid_s|} alpha beta^r / r.
[[nodiscard]] inline double log_n_tests(std::span<std::size_t const> cells) {
    detail::check_cells(cells);
    double highest = detail::log_n_tests_of_grid(*std::max_element(cells.begin(), cells.end()));
    double sum = 0.0;
    for (auto const n : cells) sum += std::pow(10.0, detail::log_n_tests_of_grid(n) - highest);
    return highest + std::log10(sum);
}

// log10 N_T(n) = shared + log10(alpha beta^n / n), n the region's area; `shared` from log_n_positions_and_sizes.
[[nodiscard]] inline double log_n_tests_by_size(double shared, double area) {
    return shared + std::log10(kPolyominoAlpha / area) + area * std::log10(kPolyominoBeta);
}

// log10 of (cells of all grids) * (sizes a region can have).
[[nodiscard]] inline double log_n_positions_and_sizes(std::span<std::size_t const> cells) {
    detail::check_cells(cells);
    double positions = 0.0;
    for (auto const n : cells) positions += static_cast<double>(n);
    return std::log10(positions) + std::log10(static_cast<double>(*std::max_element(cells.begin(), cells.end())));
}

// log10 N_T of a region, ready to be asked for many areas; most regions are small.
struct NumberOfTests {
    Tests tests;
    double constant;
    std::array<double, 16> of_small{};

    NumberOfTests(std::span<std::size_t const> cells, Tests chosen)
        : tests(chosen), constant(tests == Tests::paper ? log_n_tests(cells) : log_n_positions_and_sizes(cells)) {
        for (std::size_t area = 0; area < of_small.size(); ++area) of_small[area] = of(static_cast<double>(area));
    }

    [[nodiscard]] double of(double area) const {
        return tests == Tests::paper ? constant : log_n_tests_by_size(constant, area);
    }

    [[nodiscard]] double operator()(Pixel area) const {
        auto const index = static_cast<std::size_t>(area);
        return index < of_small.size() ? of_small[index] : of(area);
    }
};

}  // namespace uflow
