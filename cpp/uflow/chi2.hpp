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

// t - 1 - ln t >= 0 for t = x / mean, without cancellation around the mean.
[[nodiscard]] inline double chernoff_rate(double x, double mean) {
    auto const excess = (x - mean) / mean;
    if (std::abs(excess) > 0.01) return x / mean - 1.0 - std::log(x / mean);
    double sum = 0.0;  // e^2/2 - e^3/3 + ...: nine terms leave less than 1e-17 of the sum
    for (int j = 10; j >= 2; --j) sum = 1.0 / j - excess * sum;
    return excess * excess * sum;
}

// ln Q(a, y), the regularised upper incomplete gamma function. Lentz's continued fraction above the mean (DLMF 8.9.2),
// 1 - the power series of P below it (DLMF 8.11.4); the common factor y^a e^-y / Gamma(a) stays a logarithm.
[[nodiscard]] inline double log_upper_gamma(double a, double y, double remainder) {
    if (y <= 0.0) return 0.0;
    constexpr double epsilon = std::numeric_limits<double>::epsilon();
    auto const log_factor = -a * chernoff_rate(y, a) - remainder + 0.5 * std::log(a / (2.0 * std::numbers::pi));
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
    double degrees_of_freedom;
    double scale;
    double remainder;     // of Stirling's formula at half the degrees of freedom
    float certain_up_to;  // the highest U whose tail is surely 1; -1 if there is none
};

// log10 P(one cell >= level); at most 0.
[[nodiscard]] inline double log_tail(TailLaw const& law, double level) {
    auto const k = law.degrees_of_freedom;
    auto x = level / law.scale;
    if (law.tail == Tail::exact)
        return std::min(0.0, detail::log_upper_gamma(0.5 * k, 0.5 * x, law.remainder) / std::numbers::ln10);
    if (law.tail == Tail::chernoff && x <= k) return 0.0;
    x = std::max(x, static_cast<double>(std::numeric_limits<float>::min()));  // a zero stays finite
    return -0.5 * k * detail::chernoff_rate(x, k) / std::numbers::ln10;
}

namespace detail {

// Everything up to the mean is certain under the clamped bound, only U = 0 under the exact tail.
[[nodiscard]] inline float highest_certain_level(Background const& background, Tail tail) {
    if (tail == Tail::published) return -1.0F;
    if (tail == Tail::exact) return 0.0F;
    constexpr float most = std::numeric_limits<float>::max();
    auto const mean = background.degrees_of_freedom * background.scale;
    auto level = static_cast<float>(std::min(mean, static_cast<double>(most)));
    auto const certain = [&](float u) {
        return static_cast<double>(u) / background.scale <= background.degrees_of_freedom;
    };
    while (!certain(level)) level = std::nextafter(level, 0.0F);
    while (level < most && certain(std::nextafter(level, most))) level = std::nextafter(level, most);
    return level;
}

}  // namespace detail

[[nodiscard]] inline TailLaw make_tail_law(Background const& background, Tail tail) {
    auto const positive = [](double x) { return std::isfinite(x) && x > 0.0; };
    if (!positive(background.degrees_of_freedom) || !positive(background.scale))
        throw std::invalid_argument("degrees of freedom and scale must be positive and finite");
    return {tail, background.degrees_of_freedom, background.scale,
            detail::stirling_remainder(0.5 * background.degrees_of_freedom),
            detail::highest_certain_level(background, tail)};
}

}  // namespace uflow
