// Upper tail of the background law U ~ scale * chi2(degrees of freedom), log10 of the probability of one cell.
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
    exact,      // the tail itself
};

namespace detail {

// ln Gamma(a) - [(a - 1/2) ln a - a + ln(2 pi)/2], Stirling's remainder (Abramowitz & Stegun 6.1.41).
// Below 16 the argument is first moved up by Gamma(a + 1) = a Gamma(a). Not std::lgamma: that writes the global
// signgam.
[[nodiscard]] inline double stirling_remainder(double a) {
    double moved = 0.0;
    for (; a < 16.0; a += 1.0) moved += (a + 0.5) * std::log1p(1.0 / a) - 1.0;
    auto const r = 1.0 / (a * a);
    auto const series =
        1.0 / 12 + r * (-1.0 / 360 + r * (1.0 / 1260 + r * (-1.0 / 1680 + r * (1.0 / 1188 - r * 691.0 / 360360))));
    return moved + series / a;
}

// t - 1 - ln t for t = x / mean; never negative, no cancellation around the mean.
// With e = t - 1 and s = e / (2 + e), ln t = 2 atanh s, and e - 2s = e s: what is left of the difference is a product.
[[nodiscard]] inline double chernoff_rate(double x, double mean, double inverse_mean) {
    auto const e = (x - mean) * inverse_mean;
    if (!(e > -0.3 && e < 0.5)) return x * inverse_mean - 1.0 - std::log(x * inverse_mean);
    auto const s = e / (2.0 + e);
    auto const q = s * s;  // at most 0.04: the first term left out is below 1e-17 of the sum
    auto const q2 = q * q;
    auto const low = (1.0 / 3 + q * (1.0 / 5)) + q2 * (1.0 / 7 + q * (1.0 / 9));
    auto const middle = (1.0 / 11 + q * (1.0 / 13)) + q2 * (1.0 / 15 + q * (1.0 / 17));
    auto const high = 1.0 / 19 + q * (1.0 / 21);
    return s * (e - 2.0 * q * (low + q2 * q2 * (middle + q2 * q2 * high)));
}

// ln Q(a, y), the regularised upper incomplete gamma function. Lentz's continued fraction above the mean (DLMF 8.9.2),
// 1 - the power series of P below it (DLMF 8.11.4); the common factor y^a e^-y / Gamma(a) stays a logarithm.
[[nodiscard]] inline double log_upper_gamma(double a, double y, double remainder) {
    if (y <= 0.0) return 0.0;
    constexpr double epsilon = std::numeric_limits<double>::epsilon();
    auto const log_factor =
        -a * chernoff_rate(y, a, 1.0 / a) - remainder + 0.5 * std::log(a / (2.0 * std::numbers::pi));
    if (y < a + 1.0) {
        double term = 1.0 / a;
        double sum = term;
        for (double n = a + 1.0; term > sum * epsilon; n += 1.0) {
            term *= y / n;
            sum += term;
        }
        return std::log1p(-std::min(1.0, std::exp(log_factor) * sum));
    }
    constexpr double tiny = 1e-300;
    double b = y + 1.0 - a;
    double c = 1.0 / tiny;
    double d = 1.0 / b;
    double h = d;
    for (double i = 1.0;; i += 1.0) {
        auto const numerator = i * (a - i);
        b += 2.0;
        d = numerator * d + b;
        d = 1.0 / (std::abs(d) < tiny ? tiny : d);
        c = b + numerator / c;
        if (std::abs(c) < tiny) c = tiny;
        h *= c * d;
        if (std::abs(c * d - 1.0) < epsilon) break;
    }
    return log_factor + std::log(h);
}

}  // namespace detail

// A background law with its constants worked out.
struct TailLaw {
    Tail tail;
    float certain_up_to;  // the highest U whose tail is surely 1; -1 if there is none
    double mean, inverse_mean;
    double factor;                // log10 of the Chernoff bound per unit of rate
    double shape, inverse_scale;  // of the gamma law: U ~ 2 scale * gamma(shape)
    double remainder;             // of Stirling's formula at `shape`
};

// log10 P(U >= level) of one cell; at most 0.
[[nodiscard]] inline double log_tail(TailLaw const& law, double level) {
    if (law.tail == Tail::exact) {
        auto const log_q = detail::log_upper_gamma(law.shape, 0.5 * level * law.inverse_scale, law.remainder);
        return std::min(0.0, log_q / std::numbers::ln10);
    }
    if (law.tail == Tail::chernoff && level <= law.mean) return 0.0;
    // Zero counts as about 1e-38 of the mean, or the published formula would be infinite.
    auto const x = std::max(level, double{std::numeric_limits<float>::min()} * law.mean);
    return law.factor * detail::chernoff_rate(x, law.mean, law.inverse_mean);
}

namespace detail {

// Everything up to the mean is certain under the clamped bound, only U = 0 under the exact tail.
[[nodiscard]] inline float highest_certain_level(double mean, Tail tail) {
    if (tail == Tail::published) return -1.0F;
    if (tail == Tail::exact) return 0.0F;
    constexpr float most = std::numeric_limits<float>::max();
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
    auto const shape = 0.5 * background.degrees_of_freedom;
    if (!positive(mean) || !positive(1.0 / mean) || !positive(1.0 / background.scale) || !positive(shape))
        throw std::invalid_argument("degrees of freedom or scale are too extreme");
    return {tail,
            detail::highest_certain_level(mean, tail),
            mean,
            1.0 / mean,
            -shape / std::numbers::ln10,
            shape,
            1.0 / background.scale,
            detail::stirling_remainder(shape)};
}

}  // namespace uflow
