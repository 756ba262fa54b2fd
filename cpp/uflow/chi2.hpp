// Upper tail of the background law U ~ scale * chi2(degrees of freedom): log10 of a bound for the probability of a
// cell.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <stdexcept>

namespace uflow {

struct Background {
    double degrees_of_freedom;  // real, > 0
    double scale = 1.0;         // > 0
};

enum class Tail {
    chernoff,   // Chernoff's bound where it holds, above the mean; 0 (probability 1) elsewhere
    published,  // the same formula on both sides of the mean, as published: grows again below the mean
};

// A background law with its constants worked out.
struct TailLaw {
    Tail tail;
    float certain_up_to;  // the highest U whose tail is surely 1; -1 if there is none
    double mean, inverse_mean;
    double factor;  // log10 of the bound per unit of rate
};

namespace detail {

constexpr double kLeastNear = -0.3, kMostNear = 0.5;  // between them `rate_near_mean` is exact to rounding

// e - ln(1 + e) without cancellation: with s = e / (2 + e), ln(1 + e) = 2 atanh s, and e - 2s = e s, so what is left of
// the difference is a product.
[[nodiscard]] inline double rate_near_mean(double e) {
    auto const s = e / (2.0 + e);
    auto const q = s * s;  // at most 0.04: the first term left out is below 1e-17 of the sum
    auto const q2 = q * q;
    auto const low = (1.0 / 3 + q * (1.0 / 5)) + q2 * (1.0 / 7 + q * (1.0 / 9));
    auto const middle = (1.0 / 11 + q * (1.0 / 13)) + q2 * (1.0 / 15 + q * (1.0 / 17));
    auto const high = 1.0 / 19 + q * (1.0 / 21);
    return s * (e - 2.0 * q * (low + q2 * q2 * (middle + q2 * q2 * high)));
}

// t - 1 - ln t for t = x / mean; never negative.
[[nodiscard]] inline double chernoff_rate(double x, double mean, double inverse_mean) {
    auto const e = (x - mean) * inverse_mean;
    if (e > kLeastNear && e < kMostNear) return rate_near_mean(e);
    return x * inverse_mean - 1.0 - std::log(x * inverse_mean);
}

// Everything up to the mean is certain under the clamped bound.
[[nodiscard]] inline float highest_certain_level(double mean, Tail tail) {
    constexpr float most = std::numeric_limits<float>::max();
    if (tail == Tail::published) return -1.0F;
    if (mean >= double{most}) return most;
    auto const nearest = static_cast<float>(mean);
    return double{nearest} <= mean ? nearest : std::nextafter(nearest, 0.0F);
}

}  // namespace detail

[[nodiscard]] inline TailLaw make_tail_law(Background const& background, Tail tail) {
    auto const positive = [](double x) { return std::isfinite(x) && x > 0.0; };
    if (!positive(background.degrees_of_freedom) || !positive(background.scale))
        throw std::invalid_argument("degrees of freedom and scale must be positive and finite");
    auto const mean = background.degrees_of_freedom * background.scale;
    if (!positive(mean) || !positive(1.0 / mean) || !positive(1.0 / background.scale))
        throw std::invalid_argument("degrees of freedom or scale are too extreme");
    auto const factor = -0.5 * background.degrees_of_freedom / std::numbers::ln10;
    return {tail, detail::highest_certain_level(mean, tail), mean, 1.0 / mean, factor};
}

// log10 of the bound of P(U >= level) of one cell; at most 0.
[[nodiscard]] inline double log_tail(TailLaw const& law, double level) {
    if (law.tail == Tail::chernoff && level <= law.mean) return 0.0;
    // Zero counts as about 1e-38 of the mean, or the published formula would be infinite.
    auto const x = std::max(level, double{std::numeric_limits<float>::min()} * law.mean);
    return law.factor * detail::chernoff_rate(x, law.mean, law.inverse_mean);
}

}  // namespace uflow
