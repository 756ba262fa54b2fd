// Pixels by decreasing value, ties by pixel number: a stable radix sort on the bits of the floats.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <utility>

#include "uflow/grid.hpp"

namespace uflow {

// Bits whose unsigned order is the order of the floats; -0 and +0 are one value.
[[nodiscard]] inline std::uint32_t ordered_bits(float value) {
    auto const bits = std::bit_cast<std::uint32_t>(value + 0.0F);
    return bits & 0x80000000U ? ~bits : bits | 0x80000000U;
}

[[nodiscard]] inline float value_of_ordered_bits(std::uint32_t key) {
    return std::bit_cast<float>(key & 0x80000000U ? key & 0x7FFFFFFFU : ~key);
}

struct KeyedPixel {
    std::uint32_t key;  // ordered_bits of the value
    Pixel pixel;
};

// Sorts `items` by decreasing key, keeping the order of equal keys. `scratch` is at least as long.
// Returns the span that holds the result: one of the two.
[[nodiscard]] inline std::span<KeyedPixel> sort_decreasing(std::span<KeyedPixel> items, std::span<KeyedPixel> scratch) {
    if (items.size() < 2) return items;
    auto lowest = items.front().key;
    auto highest = lowest;
    for (auto const& item : items) {
        lowest = std::min(lowest, item.key);
        highest = std::max(highest, item.key);
    }
    auto const key_bits = static_cast<int>(std::bit_width(highest - lowest));
    // As few passes as the spread of the keys needs, with at most 2048 counters each, which is what the first-level
    // cache still likes; narrower digits for few keys, where clearing counters would dominate.
    constexpr int most_digit_bits = 11;
    auto const widest = items.size() < 1024 ? 8 : most_digit_bits;
    auto const n_passes = static_cast<std::size_t>(std::max(1, (key_bits + widest - 1) / widest));
    auto const digit_bits = std::max(1, (key_bits + static_cast<int>(n_passes) - 1) / static_cast<int>(n_passes));
    auto const mask = (1U << digit_bits) - 1U;

    std::array<std::array<std::uint32_t, std::size_t{1} << most_digit_bits>, 4> counts;
    for (std::size_t pass = 0; pass < n_passes; ++pass) std::fill_n(counts[pass].begin(), mask + 1, 0U);
    for (auto const& item : items) {
        auto rest = highest - item.key;
        for (std::size_t pass = 0; pass < n_passes; ++pass, rest >>= digit_bits) ++counts[pass][rest & mask];
    }

    auto from = items;
    auto to = scratch.first(items.size());
    for (std::size_t pass = 0; pass < n_passes; ++pass) {
        auto& place = counts[pass];  // of the next item of each digit
        std::exclusive_scan(place.begin(), place.begin() + mask + 1, place.begin(), 0U);
        auto const shift = static_cast<int>(pass) * digit_bits;
        for (auto const& item : from) to[place[((highest - item.key) >> shift) & mask]++] = item;
        std::swap(from, to);
    }
    return from;
}

}  // namespace uflow
