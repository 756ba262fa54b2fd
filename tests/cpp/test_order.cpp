#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <random>
#include <vector>

#include "uflow/order.hpp"

namespace {

std::vector<uflow::KeyedPixel> random_items(std::size_t size, std::uint32_t lowest, std::uint32_t highest) {
    std::mt19937 random(static_cast<unsigned>(size));
    std::uniform_int_distribution<std::uint32_t> key(lowest, highest);
    std::vector<uflow::KeyedPixel> items;
    for (std::size_t i = 0; i < size; ++i) items.push_back({key(random), static_cast<uflow::Pixel>(i)});
    return items;
}

}  // namespace

TEST_CASE("the bits of floats are ordered as the floats, and both zeros are one") {
    constexpr auto infinity = std::numeric_limits<float>::infinity();
    std::vector<float> const rising{-infinity, -3e38F, -1.0F, -1e-45F, 0.0F, 1e-45F, 1.0F, 1.0000001F, infinity};
    for (std::size_t i = 1; i < rising.size(); ++i)
        CHECK(uflow::ordered_bits(rising[i - 1]) < uflow::ordered_bits(rising[i]));
    CHECK(uflow::ordered_bits(-0.0F) == uflow::ordered_bits(0.0F));
}

TEST_CASE("sorting is stable, for every width of keys and few or many of them") {
    for (std::size_t const size : {0U, 1U, 2U, 77U, 1023U, 1024U, 5000U, 70000U}) {
        for (std::uint32_t const spread : {0U, 1U, 255U, 2047U, 4000000U, 0xFFFFFFFFU}) {
            CAPTURE(size);
            CAPTURE(spread);
            auto items = random_items(size, 0xFFFFFFFFU - spread, 0xFFFFFFFFU);
            auto expected = items;
            std::stable_sort(expected.begin(), expected.end(),
                             [](auto const& a, auto const& b) { return a.key > b.key; });
            std::vector<uflow::KeyedPixel> scratch(size);
            auto const sorted = uflow::sort_decreasing(items, scratch);
            auto const same = [](auto const& a, auto const& b) { return a.key == b.key && a.pixel == b.pixel; };
            CHECK(std::equal(sorted.begin(), sorted.end(), expected.begin(), expected.end(), same));
        }
    }
}
