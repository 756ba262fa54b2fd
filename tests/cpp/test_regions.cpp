#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <random>
#include <vector>

#include "oracle.hpp"
#include "uflow/regions.hpp"

namespace {

struct Painted {
    std::vector<uflow::Region> regions;
    std::vector<std::int32_t> labels;
};

Painted find(uflow::Grid const& grid, uflow::TailLaw const& law, uflow::Workspace& workspace) {
    Painted painted{{}, std::vector<std::int32_t>(grid.values.size())};
    painted.regions = uflow::find_regions(grid, law, painted.labels, workspace);
    return painted;
}

}  // namespace

TEST_CASE("regions are the bests of the maximal closed nodes") {
    std::mt19937 random(1);
    uflow::Workspace workspace;
    for (int round = 0; round < 6000; ++round) {
        auto const height = 1 + random() % 8;
        auto const width = 1 + random() % 8;
        auto const k = 0.5 * static_cast<double>(1 + random() % 20);
        auto const law = uflow::make_tail_law({k, 0.9}, static_cast<uflow::Tail>(round % 2));
        auto const levels = 2 + random() % 40;
        std::vector<float> values(height * width);
        for (auto& value : values)
            value = static_cast<float>(3 * k) / static_cast<float>(levels) * static_cast<float>(random() % levels);
        auto const grid = uflow::make_grid(values.data(), height, width);

        auto const painted = find(grid, law, workspace);
        auto const expected = oracle::regions(grid, law);
        REQUIRE(painted.regions.size() == expected.size());
        std::vector<std::int32_t> labels(values.size(), -1);
        for (std::size_t i = 0; i < expected.size(); ++i) {
            REQUIRE(painted.regions[i].log_pfa == expected[i].log_pfa);
            REQUIRE(painted.regions[i].level == expected[i].level);
            REQUIRE(painted.regions[i].area == std::popcount(expected[i].cells));
            float peak = 0.0F;
            double total = 0.0;
            for (std::size_t p = 0; p < values.size(); ++p)
                if (expected[i].cells >> p & 1) {
                    labels[p] = static_cast<std::int32_t>(i);
                    peak = std::max(peak, values[p]);
                    total += double{values[p]};
                }
            REQUIRE(painted.regions[i].peak == peak);
            REQUIRE(painted.regions[i].total == total);
        }
        REQUIRE(painted.labels == labels);
    }
}

TEST_CASE("ties go to the leaf of a chain and to the fork of a merge") {
    // So far out the logarithm is lost in the level: the bound is a multiple of it.
    auto const law = uflow::make_tail_law({2.0}, uflow::Tail::chernoff);
    constexpr float once = 0x6.8p80F, twice = 2 * once, thrice = 3 * once;
    REQUIRE(2 * uflow::log_tail(law, double{once}) == uflow::log_tail(law, double{twice}));
    REQUIRE(3 * uflow::log_tail(law, double{once}) == uflow::log_tail(law, double{thrice}));
    uflow::Workspace workspace;
    std::vector<float> const chain{twice, once};
    std::vector<float> const fork{thrice, once, thrice};
    CHECK(find(uflow::make_grid(chain.data(), 1, 2), law, workspace).regions.at(0).area == 1);
    CHECK(find(uflow::make_grid(fork.data(), 1, 3), law, workspace).regions.at(0).area == 3);
}

TEST_CASE("boxes are half-open and centroids are means of cells") {
    std::vector<float> const values{0, 0, 0, 0,  //
                                    0, 9, 9, 0,  //
                                    0, 9, 0, 0};
    uflow::Workspace workspace;
    auto const found =
        find(uflow::make_grid(values.data(), 3, 4), uflow::make_tail_law({2.0}, uflow::Tail::chernoff), workspace)
            .regions;
    REQUIRE(found.size() == 1);
    CHECK(found[0].top == 1);
    CHECK(found[0].left == 1);
    CHECK(found[0].bottom == 3);
    CHECK(found[0].right == 3);
    CHECK(found[0].row == doctest::Approx(4.0 / 3));
    CHECK(found[0].column == doctest::Approx(4.0 / 3));
}

TEST_CASE("a frame that cannot be numbered is refused") {
    float const value = 0;
    CHECK_NOTHROW((void)uflow::detail::make_frame(uflow::make_grid(&value, 40000, 40000)));
    CHECK_THROWS_AS((void)uflow::detail::make_frame(uflow::make_grid(&value, 2000000000, 1)), std::invalid_argument);
}

TEST_CASE("squared norms are finite and not negative") {
    uflow::Workspace workspace;
    auto const law = uflow::make_tail_law({2.0}, uflow::Tail::chernoff);
    for (float const bad : {-1.0F, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()})
        for (std::size_t where = 0; where < 6; ++where) {
            std::vector<float> values(6, 1.0F);
            values[where] = bad;
            CHECK_THROWS_AS((void)find(uflow::make_grid(values.data(), 2, 3), law, workspace), std::invalid_argument);
        }
}
