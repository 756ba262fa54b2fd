// U = sum over channels of z^2, the statistic of one cell.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "uflow/parallel.hpp"
#include "uflow/prefetch.hpp"

namespace uflow {

namespace detail {

constexpr std::size_t kChannels = 8;  // per sweep over the cells
constexpr std::size_t kCells = 16;    // a cache line of one channel

// Adds the squares of `channels` channels from `z` on to the sums of cells first..last.
template <std::size_t channels>
inline void add_squares(float const* z, std::size_t cells, std::size_t first, std::size_t last, float* __restrict sum) {
    for (auto i = first; i < last; ++i) {
        float squares = 0.0F;
        for (std::size_t c = 0; c < channels; ++c) squares += z[i + c * cells] * z[i + c * cells];
        sum[i] += squares;
    }
}

// A channel of a small map is short: the processor has hardly seen the pattern when the next one starts. So the next
// sweep is fetched while this one is summed: half the time.
inline void sum_squares(float const* embedding, std::size_t channels, std::size_t cells, std::size_t first,
                        std::size_t last, float* __restrict sum) {
    std::fill(sum + first, sum + last, 0.0F);
    std::size_t c = 0;
    for (; c + kChannels <= channels; c += kChannels) {
        auto const* const z = embedding + c * cells;
        auto const* const next = c + 2 * kChannels <= channels ? z + kChannels * cells : z;
        for (auto i = first; i < last; i += kCells) {
            for (std::size_t k = 0; k < kChannels; ++k) UFLOW_PREFETCH(next + i + k * cells);
            add_squares<kChannels>(z, cells, i, std::min(last, i + kCells), sum);
        }
    }
    for (; c < channels; ++c) add_squares<1>(embedding + c * cells, cells, first, last, sum);
}

}  // namespace detail

// embeddings (images, channels, cells) -> out (images, cells).
inline void squared_norm(float const* embeddings, std::size_t images, std::size_t channels, std::size_t cells,
                         float* out, std::size_t threads) {
    constexpr std::size_t block = 2048;  // cells
    auto const blocks = (cells + block - 1) / block;
    auto const jobs = images * blocks;
    for_each_in_parallel(jobs, useful_threads(threads, jobs, images * cells * (channels + 15) / 16),
                         [&](std::size_t job, std::size_t) {
                             auto const image = job / blocks;
                             auto const first = job % blocks * block;
                             detail::sum_squares(embeddings + image * channels * cells, channels, cells, first,
                                                 std::min(cells, first + block), out + image * cells);
                         });
}

}  // namespace uflow
