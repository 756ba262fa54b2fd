// The flood of one map from the top: no tree is built (see branches.hpp for why none is needed).
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>

#include "uflow/branches.hpp"
#include "uflow/chi2.hpp"
#include "uflow/grid.hpp"
#include "uflow/memory.hpp"
#include "uflow/order.hpp"

namespace uflow {

// The kind of a pixel. A summit comes before all its neighbours (higher; ties: of lower number), so it need not
// be sorted. A dry pixel is certain under the law: it can neither lower a best nor absorb a region, so it is left out.
constexpr std::uint8_t kDry = 0;
constexpr std::uint8_t kSlope = 1;
constexpr std::uint8_t kSummit = 2;

struct KindCount {
    std::size_t slopes, summits;
};

namespace detail {

[[nodiscard]] inline std::uint8_t kind_of(float value, float above, float left, float right, float below,
                                          float certain) {
    int const wet = value > certain;
    int const first = int{value > above} & int{value > left} & int{value >= right} & int{value >= below};
    static_assert(kDry == 0 && kSlope == 1 && kSummit == 2);
    return static_cast<std::uint8_t>(wet + (wet & first));
}

constexpr float kBeyond = -1.0F;  // what lies beyond the border: lower than any value

// Without branches, so that the compiler can vectorise it.
inline void classify_row(float const* above, float const* here, float const* below, std::size_t width, float certain,
                         std::uint8_t* __restrict kind) {
    auto const last = width - 1;
    kind[0] = kind_of(here[0], above[0], kBeyond, width > 1 ? here[1] : kBeyond, below[0], certain);
    for (std::size_t x = 1; x < last; ++x)
        kind[x] = kind_of(here[x], above[x], here[x - 1], here[x + 1], below[x], certain);
    if (width > 1) kind[last] = kind_of(here[last], above[last], here[last - 1], kBeyond, below[last], certain);
}

// NaN, infinities and negative values all have bits above those of the highest float.
[[nodiscard]] inline bool all_valid(float const* values, std::size_t size) {
    constexpr auto highest = std::bit_cast<std::uint32_t>(std::numeric_limits<float>::max());
    std::uint32_t bad = 0;
    for (std::size_t i = 0; i < size; ++i)
        bad |= std::uint32_t{std::bit_cast<std::uint32_t>(values[i] + 0.0F) > highest};
    return bad == 0;
}

// Classifies all pixels; `outer` is a row of room.
inline KindCount classify(Grid const& grid, float certain, std::span<std::uint8_t> kind, std::span<float> outer) {
    auto const width = static_cast<std::size_t>(grid.width);
    auto const size = grid.values.size();
    auto const* const values = grid.values.data();
    std::fill(outer.begin(), outer.end(), kBeyond);
    KindCount count{0, 0};
    for (std::size_t start = 0; start < size; start += width) {
        auto const* const here = values + start;
        if (!all_valid(here, width)) throw std::invalid_argument("values must be finite and not negative");
        auto const* const above = start == 0 ? outer.data() : here - width;
        auto const* const below = start + width == size ? outer.data() : here + width;
        auto* const row_kind = kind.data() + start;
        classify_row(above, here, below, width, certain, row_kind);
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

constexpr std::size_t kFetchAhead = 24;         // pixels: what a trip to memory takes
constexpr std::size_t kFitsTheCache = 1 << 15;  // pixels: no trips below

// A frame around the map spares the flood all questions about borders: one row above and below, and one column that is
// to the right of one row and to the left of the next.
struct Frame {
    std::size_t stride, first, size;
};

[[nodiscard]] inline Frame make_frame(Grid const& grid) {
    auto const stride = static_cast<std::size_t>(grid.width) + 1;
    auto const size = stride * (static_cast<std::size_t>(grid.height) + 2) + 1;
    if (size > static_cast<std::size_t>(std::numeric_limits<Pixel>::max()))
        throw std::invalid_argument("a map and its frame may have at most 2^31 - 1 pixels");
    return {stride, stride + 1, size};
}

struct Flood {
    TailLaw const& law;
    Frame frame;
    std::span<BranchId> branch_of;  // framed
    Branches branches;
    std::span<KeyedPixel> slopes;  // `pixel` counts in the frame
    std::size_t n_regions = 0;
};

// Every summit becomes a branch, every slope waits to be sorted. Both are written down for every pixel and counted only
// where they are: a wrong guess of the processor would cost more.
inline void set_out(Grid const& grid, std::span<std::uint8_t const> kind, Flood& flood) {
    auto const width = static_cast<std::size_t>(grid.width);
    auto& branches = flood.branches;
    auto* const slopes = flood.slopes.data();
    std::size_t n_slopes = 0;
    std::fill(flood.branch_of.begin(), flood.branch_of.end(), kOutside);
    for (std::size_t start = 0, place = flood.frame.first; start < grid.values.size(); start += width) {
        for (std::size_t x = 0; x < width; ++x) {
            auto const value = grid.values[start + x];
            auto const is = kind[start + x];
            branches[branches.size].level = value;
            flood.branch_of[place + x] = is == kSummit ? branches.size : kOutside;
            branches.size += is >> 1;
            slopes[n_slopes] = {ordered_bits(value), static_cast<Pixel>(place + x)};
            n_slopes += is & 1U;
        }
        place += flood.frame.stride;
    }
    for (auto id = kFirstBranch; id < branches.size; ++id) start_branch(branches, id, branches[id].level);
}

// A pixel at `level` joins the branches around it; each of `around` is a root, kOpen or kOutside.
inline BranchId join(Flood& flood, std::span<BranchId const, 4> around, float level) {
    auto& branches = flood.branches;
    BranchId roots[4];
    std::size_t n_roots = 0;
    bool open = false;
    for (auto const root : around) {
        if (root == kOutside || std::find(roots, roots + n_roots, root) != roots + n_roots) continue;
        if (root == kOpen || (branches[root].level > level && !complete(branches, root, flood.law)))
            open = true;
        else
            roots[n_roots++] = root;
    }
    if (open) {
        for (std::size_t i = 0; i < n_roots; ++i) branches.link_of(roots[i]) = kOpen;
        return kOpen;
    }
    if (n_roots > 1) return merge(branches, {roots, n_roots}, level);
    extend(branches, roots[0], level);
    return roots[0];
}

// The pixel at `place`, all of whose flooded neighbours are as high as it or higher.
inline void add_pixel(Flood& flood, std::size_t place, float level) {
    auto& branches = flood.branches;
    auto const* const here = flood.branch_of.data() + place;
    auto const stride = static_cast<std::ptrdiff_t>(flood.frame.stride);
    auto const two_links = [&](std::ptrdiff_t step) { return branches.link_of(branches.link_of(here[step])); };
    BranchId around[4] = {two_links(-stride), two_links(-1), two_links(1), two_links(stride)};
    bool roots = true;
    for (auto const id : around) roots &= branches.link_of(id) == id;
    if (!roots)
        for (auto& id : around) id = find_root(branches, id);
    auto& branch = flood.branch_of[place];
    if ((around[0] | around[1] | around[2] | around[3]) == kOpen) {
        branch = kOpen;  // most of a noisy map
        return;
    }
    auto const root = std::max({around[0], around[1], around[2], around[3]});
    bool alone = true;
    for (auto const id : around) alone &= id == root || id == kOutside;
    if (alone) {
        if (branches[root].level > level && !complete(branches, root, flood.law)) {
            branch = kOpen;
        } else {
            extend(branches, root, level);
            branch = root;
        }
        return;
    }
    branch = join(flood, around, level);
}

inline void run_flood(Flood& flood, std::span<KeyedPixel const> sorted) {
    auto const add = [&](KeyedPixel const& slope) {
        add_pixel(flood, static_cast<std::size_t>(slope.pixel), value_of_ordered_bits(slope.key));
    };
    auto const stride = static_cast<std::ptrdiff_t>(flood.frame.stride);
    auto const* const branch_of = flood.branch_of.data();
    std::size_t i = 0;
    if (flood.frame.size > kFitsTheCache)
        for (; i + kFetchAhead < sorted.size(); ++i) {
            // First the neighbourhood of a pixel to come, then, when half the way is gone, the branches found there.
            auto const* const far = branch_of + sorted[i + kFetchAhead].pixel;
            UFLOW_PREFETCH(far - stride);
            UFLOW_PREFETCH(far);
            UFLOW_PREFETCH(far + stride);
            auto const* const near = branch_of + sorted[i + kFetchAhead / 2].pixel;
            for (auto const step : {-stride, std::ptrdiff_t{-1}, std::ptrdiff_t{1}, stride}) {
                UFLOW_PREFETCH(&flood.branches.link_of(near[step]));
                UFLOW_PREFETCH(&flood.branches[near[step]]);
            }
            add(sorted[i]);
        }
    for (; i < sorted.size(); ++i) add(sorted[i]);
    for (auto id = kFirstBranch; id < flood.branches.size; ++id)
        if (flood.branches.link_of(id) == id) complete(flood.branches, id, flood.law);
    flood.n_regions = settle(flood.branches);
}

}  // namespace detail

}  // namespace uflow
