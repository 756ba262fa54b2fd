// A grid of values: the one shape everything else looks at. Pixels are numbered row by row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>

namespace uflow {

// A pixel's number in its map. Maps of 2^31 pixels or more are refused, so 32 bits do and memory stays small.
using Pixel = std::int32_t;

struct Grid {
    std::span<float const> values;  // row by row
    Pixel height = 0;
    Pixel width = 0;
};

[[nodiscard]] inline Grid make_grid(float const* values, std::size_t height, std::size_t width) {
    constexpr auto most = static_cast<std::size_t>(std::numeric_limits<Pixel>::max());
    if (height == 0 || width == 0) throw std::invalid_argument("a map needs at least one pixel");
    if (height > most / width) throw std::invalid_argument("a map may have at most 2^31 - 1 pixels");
    return {{values, height * width}, static_cast<Pixel>(height), static_cast<Pixel>(width)};
}

// Calls visit(q) for the up to four neighbours q of pixel p, in increasing order.
template <class Visit>
inline void for_each_neighbour(Grid const& grid, Pixel p, Visit&& visit) {
    auto const column = p % grid.width;
    auto const size = static_cast<Pixel>(grid.values.size());
    if (p >= grid.width) visit(p - grid.width);
    if (column > 0) visit(p - 1);
    if (column + 1 < grid.width) visit(p + 1);
    if (p < size - grid.width) visit(p + grid.width);
}

}  // namespace uflow
