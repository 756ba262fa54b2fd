// Where a flood from the top starts: one look at every pixel, without branches, so that the compiler can vectorise it.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>

#include "uflow/grid.hpp"

namespace uflow {

// What a pixel is to the flood. A summit comes before all its neighbours (higher; ties: of lower number): it need not
// be sorted. A dry pixel is certain under the law: it can neither lower a best nor absorb a region, so it is left out.
constexpr std::uint8_t kDry = 0;
constexpr std::uint8_t kSlope = 1;
constexpr std::uint8_t kSummit = 2;

struct KindCount {
    std::size_t slopes, summits;
};

namespace detail {

struct Row {
    float const *above, *here, *below;
};

[[nodiscard]] inline std::uint8_t kind_of(float value, float above, float left, float right, float below,
                                          float certain) {
    int const wet = value > certain;
    int const first = int{value > above} & int{value > left} & int{value >= right} & int{value >= below};
    static_assert(kDry == 0 && kSlope == 1 && kSummit == 2);
    return static_cast<std::uint8_t>(wet + (wet & first));
}

inline void classify_row(Row const& row, std::size_t width, float certain, std::uint8_t* __restrict kind) {
    constexpr float none = -1.0F;  // lower than any squared norm
    auto const* const here = row.here;
    auto const last = width - 1;
    kind[0] = kind_of(here[0], row.above[0], none, width > 1 ? here[1] : none, row.below[0], certain);
    for (std::size_t x = 1; x < last; ++x)
        kind[x] = kind_of(here[x], row.above[x], here[x - 1], here[x + 1], row.below[x], certain);
    if (width > 1) kind[last] = kind_of(here[last], row.above[last], here[last - 1], none, row.below[last], certain);
}

// NaN, infinities and negative values all have bits above those of the highest float.
[[nodiscard]] inline bool all_valid(float const* values, std::size_t size) {
    constexpr auto highest = std::bit_cast<std::uint32_t>(std::numeric_limits<float>::max());
    std::uint32_t bad = 0;
    for (std::size_t i = 0; i < size; ++i)
        bad |= std::uint32_t{std::bit_cast<std::uint32_t>(values[i] + 0.0F) > highest};
    return bad == 0;
}

}  // namespace detail

// Classifies all pixels; `outer` is a row of room.
inline KindCount classify(Grid const& grid, float certain, std::span<std::uint8_t> kind, std::span<float> outer) {
    auto const width = static_cast<std::size_t>(grid.width);
    auto const size = grid.values.size();
    auto const* const values = grid.values.data();
    std::fill(outer.begin(), outer.end(), -1.0F);
    KindCount count{0, 0};
    for (std::size_t start = 0; start < size; start += width) {
        auto const* const here = values + start;
        if (!detail::all_valid(here, width))
            throw std::invalid_argument("squared norms must be finite and not negative");
        auto const* const above = start == 0 ? outer.data() : here - width;
        auto const* const below = start + width == size ? outer.data() : here + width;
        auto* const row_kind = kind.data() + start;
        detail::classify_row({above, here, below}, width, certain, row_kind);
        std::uint32_t slopes = 0;
        std::uint32_t summits = 0;
        for (std::size_t x = 0; x < width; ++x) {
            slopes += row_kind[x] & 1U;
            summits += row_kind[x] >> 1U;
        }
        count.slopes += slopes;
        count.summits += summits;
    }
    return count;
}

}  // namespace uflow
