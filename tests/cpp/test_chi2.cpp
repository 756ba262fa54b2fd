#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <stdexcept>

#include "uflow/chi2.hpp"

using uflow::log_tail;
using uflow::make_tail_law;
using uflow::Tail;

TEST_CASE("Chernoff's bound is above the tail exp(-x/2) of two degrees of freedom, and close far out") {
    auto const law = make_tail_law({2.0}, Tail::chernoff);
    for (double const x : {1e-9, 0.5, 2.0, 3.9, 4.1, 100.0, 1e5, 1e30})
        CHECK(log_tail(law, x) >= -0.5 * x / std::log(10.0));
    for (double const x : {1e5, 1e30})
        CHECK(log_tail(law, x) == doctest::Approx(-0.5 * x / std::log(10.0)).epsilon(3e-4));
}

TEST_CASE("Chernoff's bound is above the tail erfc(sqrt(x/2)) of one degree of freedom") {
    auto const law = make_tail_law({1.0}, Tail::chernoff);
    for (double const x : {1e-9, 0.5, 2.0, 3.9, 4.1, 100.0, 1000.0})
        CHECK(log_tail(law, x) >= std::log10(std::erfc(std::sqrt(0.5 * x))));
}

TEST_CASE("the law of scale * chi2 is the law of chi2 at U / scale") {
    for (auto const tail : {Tail::chernoff, Tail::published})
        CHECK(log_tail(make_tail_law({5.0, 0.25}, tail), 3.0) == log_tail(make_tail_law({5.0, 1.0}, tail), 12.0));
}

TEST_CASE("a level is certain exactly up to the one that is announced") {
    for (double const k : {0.3, 4.0, 816.0})
        for (double const scale : {0.37, 1.0, 1.9}) {
            auto const law = make_tail_law({k, scale}, Tail::chernoff);
            auto const above = std::nextafter(law.certain_up_to, std::numeric_limits<float>::max());
            CHECK(log_tail(law, law.certain_up_to) == 0.0);
            CHECK(double{above} > scale * k);
        }
    CHECK(make_tail_law({1e30, 1e30}, Tail::chernoff).certain_up_to == std::numeric_limits<float>::max());
    CHECK(make_tail_law({1e-30, 1e-30}, Tail::chernoff).certain_up_to == 0.0F);
}

TEST_CASE("a law needs positive and finite numbers") {
    constexpr auto infinity = std::numeric_limits<double>::infinity();
    for (double const bad : {0.0, -1.0, infinity, std::numeric_limits<double>::quiet_NaN()}) {
        CHECK_THROWS_AS((void)make_tail_law({bad, 1.0}, Tail::chernoff), std::invalid_argument);
        CHECK_THROWS_AS((void)make_tail_law({1.0, bad}, Tail::chernoff), std::invalid_argument);
    }
    for (double const extreme : {1e-300, 1e300})
        CHECK_THROWS_AS((void)make_tail_law({extreme, extreme}, Tail::chernoff), std::invalid_argument);
}
