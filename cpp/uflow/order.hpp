// Pixels by decreasing value, ties by pixel number: a stable radix sort on the bits of the floats.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

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

namespace detail {

constexpr int kMaxDigitBits = 11;  // 2048 counters: what the first-level cache still likes
constexpr int kMaxPasses = 4;

struct RadixPlan {
    int passes;
    int digit_bits;
};

// As few passes as the spread of the keys needs; narrower digits for few keys, where clearing counters would dominate.
[[nodiscard]] inline RadixPlan plan_radix(int key_bits, std::size_t size) {
    auto const widest = size < 1024 ? 8 : kMaxDigitBits;
    auto const passes = std::max(1, (key_bits + widest - 1) / widest);
    return {passes, std::max(1, (key_bits + passes - 1) / passes)};
}

}  // namespace detail

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
    auto const plan = detail::plan_radix(static_cast<int>(std::bit_width(highest - lowest)), items.size());
    auto const mask = (1U << plan.digit_bits) - 1U;
    auto const buckets = static_cast<std::size_t>(mask) + 1;

    std::array<std::array<std::uint32_t, std::size_t{1} << detail::kMaxDigitBits>, detail::kMaxPasses> counts;
    for (int pass = 0; pass < plan.passes; ++pass)
        std::fill_n(counts[static_cast<std::size_t>(pass)].begin(), buckets, 0U);
    for (auto const& item : items) {
        auto rest = highest - item.key;
        for (int pass = 0; pass < plan.passes; ++pass, rest >>= plan.digit_bits)
            ++counts[static_cast<std::size_t>(pass)][rest & mask];
    }

    auto from = items;
    auto to = scratch.first(items.size());
    for (int pass = 0; pass < plan.passes; ++pass) {
        auto& count = counts[static_cast<std::size_t>(pass)];
        auto const shift = pass * plan.digit_bits;
        std::uint32_t start = 0;
        for (std::size_t bucket = 0; bucket < buckets; ++bucket) {
            auto const size = count[bucket];
            count[bucket] = start;
            start += size;
        }
        for (auto const& item : from) to[count[((highest - item.key) >> shift) & mask]++] = item;
        std::swap(from, to);
    }
    return from;
}

}  // namespace uflow
