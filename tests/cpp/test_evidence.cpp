#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "uflow/evidence.hpp"

namespace {

std::vector<float> fuse(std::vector<uflow::Source> const& sources, std::size_t threads = 1) {
    auto const size = uflow::size_of_evidence(sources);
    std::vector<float> evidence(sources.front().images * size.height * size.width, -1.0F);
    uflow::fuse_evidence(sources, evidence.data(), threads);
    return evidence;
}

// k/2 (r - 1 - ln r), from the other form of the same formula
double exponent(uflow::Background const& law, double u) {
    return -std::log(10.0) * uflow::log_tail(uflow::make_tail_law(law, uflow::Tail::chernoff), u);
}

}  // namespace

TEST_CASE("up-sampling lies between the centres of cells and keeps to the outer ones") {
    std::vector<float> const u{2.0F, 40.0F};
    std::vector<float> const nothing(4, 0.0F);
    uflow::Background const law{4.0, 1.5};
    auto const evidence = fuse({{u.data(), 1, 1, 2, law, 1.0}, {nothing.data(), 1, 1, 4, law, 1.0}});
    auto const c = exponent(law, 40.0);
    double const shares[] = {0.0, 0.25, 0.75, 1.0};
    for (std::size_t x = 0; x < 4; ++x)
        CHECK(evidence[x] == doctest::Approx(0.5 * uflow::evidence_of(shares[x] * c)).epsilon(1e-6));
}

TEST_CASE("only the ratio of weights counts, and a weight of zero is silence") {
    std::vector<float> const u{20.0F, 3.0F, 9.0F, 50.0F};
    std::vector<float> const v{7.0F};
    uflow::Background const law{4.0};
    auto const both = [&](double a, double b) {
        return fuse({{u.data(), 1, 2, 2, law, a}, {v.data(), 1, 1, 1, law, b}});
    };
    CHECK(both(1.0, 3.0) == both(0.25, 0.75));
    CHECK(both(2.0, 0.0) == fuse({{u.data(), 1, 2, 2, law, 1.0}}));
}

TEST_CASE("huge values stay finite, and any number of threads gives the same bits") {
    std::vector<float> u(50 * 30 * 30);
    for (std::size_t i = 0; i < u.size(); ++i) u[i] = static_cast<float>(i * 7919 % 101);
    u[5] = std::numeric_limits<float>::max();
    std::vector<uflow::Source> const sources{{u.data(), 50, 30, 30, {8.0, 1e-10}, 1.0},
                                             {u.data(), 50, 7, 9, {9.0}, 2.0}};
    auto const alone = fuse(sources);
    for (auto const e : alone) REQUIRE(std::isfinite(e));
    for (std::size_t const threads : {0U, 3U}) CHECK(fuse(sources, threads) == alone);
}

TEST_CASE("the log without a branch is the log") {
    for (double x = 1.0; x < 1e300; x = x * 1.37 + 1e-9) {
        CHECK(uflow::detail::vector_log(x) == doctest::Approx(std::log(x)).epsilon(1e-13));
        CHECK(uflow::detail::vector_log(x) <= uflow::detail::vector_log(x * 1.0000001));
    }
    CHECK(std::abs(uflow::detail::vector_log(1.0)) < 2e-14);
    CHECK(uflow::detail::vector_log(std::nextafter(2.0, 1.0)) == doctest::Approx(std::log(2.0)).epsilon(1e-13));
}

TEST_CASE("many sources of one weight or of many say the sum of what each says") {
    uflow::Background const law{4.0, 0.5};
    std::vector<float> const u{40.0F, 3.0F, 1e30F, 1.0F};
    std::vector<uflow::Source> same, different;
    for (int i = 0; i < 7; ++i) {
        same.push_back({u.data(), 1, 2, 2, law, 1.0});
        different.push_back({u.data(), 1, 2, 2, law, 1.0 + i});
    }
    auto const one = fuse({{u.data(), 1, 2, 2, law, 1.0}});
    for (auto const& sources : {same, different})
        for (std::size_t p = 0; p < 4; ++p) CHECK(fuse(sources)[p] == doctest::Approx(one[p]).epsilon(1e-6));
    for (std::size_t p = 0; p < 4; ++p)
        CHECK(one[p] == doctest::Approx(uflow::evidence_of(exponent(law, double{u[p]}))).epsilon(1e-6));
}

TEST_CASE("sources that cannot be fused are refused") {
    std::vector<float> u(4, 1.0F);
    uflow::Source const good{u.data(), 1, 2, 2, {4.0}, 1.0};
    auto const refused = [&](auto const& change) {
        auto bad = good;
        change(bad);
        CHECK_THROWS_AS((void)fuse({good, bad}), std::invalid_argument);
    };
    refused([](auto& s) { s.images = 2; });
    refused([](auto& s) { s.height = 0; });
    refused([](auto& s) { s.weight = -1.0; });
    refused([](auto& s) { s.weight = std::numeric_limits<double>::quiet_NaN(); });
    refused([](auto& s) { s.background.scale = 0.0; });
    CHECK_THROWS_AS((void)fuse({}), std::invalid_argument);
    CHECK_THROWS_AS((void)fuse({{u.data(), 1, 2, 2, {4.0}, 0.0}}), std::invalid_argument);
    for (float const bad : {-1.0F, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
        u[3] = bad;
        CHECK_THROWS_AS((void)fuse({good}), std::invalid_argument);
    }
}
