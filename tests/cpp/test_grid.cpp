#include <doctest/doctest.h>

#include <limits>
#include <stdexcept>
#include <vector>

#include "uflow/grid.hpp"

TEST_CASE("a pixel has its two to four neighbours, in increasing order") {
    std::vector<float> const values(12);
    auto const grid = uflow::make_grid(values.data(), 3, 4);
    auto const around = [&](uflow::Pixel p) {
        std::vector<uflow::Pixel> found;
        uflow::for_each_neighbour(grid, p, [&](uflow::Pixel q) { found.push_back(q); });
        return found;
    };
    CHECK(around(0) == std::vector<uflow::Pixel>{1, 4});
    CHECK(around(3) == std::vector<uflow::Pixel>{2, 7});
    CHECK(around(5) == std::vector<uflow::Pixel>{1, 4, 6, 9});
    CHECK(around(11) == std::vector<uflow::Pixel>{7, 10});
}

TEST_CASE("empty grids and grids of 2^31 pixels are refused") {
    float const value = 0;
    CHECK_THROWS_AS((void)uflow::make_grid(&value, 0, 3), std::invalid_argument);
    CHECK_THROWS_AS((void)uflow::make_grid(&value, 3, 0), std::invalid_argument);
    CHECK_THROWS_AS((void)uflow::make_grid(&value, std::size_t{1} << 16, std::size_t{1} << 15), std::invalid_argument);
    CHECK_THROWS_AS((void)uflow::make_grid(&value, std::numeric_limits<std::size_t>::max(), 2), std::invalid_argument);
}
