#include <doctest/doctest.h>

#include <cmath>
#include <stdexcept>
#include <vector>

#include "uflow/number_of_tests.hpp"

using Cells = std::vector<std::size_t>;

TEST_CASE("the number of tests of known grids") {
    auto const near = [](double x) { return doctest::Approx(x).epsilon(1e-13); };
    CHECK(uflow::log_n_tests(Cells{28 * 28, 14 * 14}) == near(476.9237108556737));
    CHECK(uflow::log_n_tests(Cells{128 * 128}) == near(9974.216909837652));
    CHECK(uflow::log_n_tests(Cells{1}) == near(std::log10(0.316915 * 4.062570)));
    CHECK(uflow::log_n_tests(Cells{1, 1}) == near(std::log10(2 * 0.316915 * 4.062570)));
}

TEST_CASE("by size, the budget of all sizes together is that of eq. 9 or less") {
    Cells const cells{64};
    auto const shared = uflow::log_n_positions_and_sizes(cells);
    double total = 0.0;
    for (int area = 1; area <= 64; ++area) total += std::pow(10.0, uflow::log_n_tests_by_size(shared, area)) / 64;
    CHECK(std::log10(total) == doctest::Approx(uflow::log_n_tests(cells)).epsilon(1e-13));
}

TEST_CASE("a number of tests needs cells") {
    CHECK_THROWS_AS((void)uflow::log_n_tests(Cells{}), std::invalid_argument);
    CHECK_THROWS_AS((void)uflow::log_n_tests(Cells{4, 0}), std::invalid_argument);
    CHECK_THROWS_AS((void)uflow::log_n_positions_and_sizes(Cells{}), std::invalid_argument);
}
