// U = sum over channels of z^2, the statistic of one cell.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "uflow/parallel.hpp"

namespace uflow {

namespace detail {

// Cells first..last of one image. Four channels per sweep: the sums stay in the first-level cache and are touched
// rarely.
inline void add_squares(float const* embedding, std::size_t channels, std::size_t cells, std::size_t first,
                        std::size_t last, float* __restrict sum) {
    std::fill(sum + first, sum + last, 0.0F);
    std::size_t c = 0;
    for (; c + 4 <= channels; c += 4) {
        auto const* const z = embedding + c * cells;
        for (auto i = first; i < last; ++i) {
            auto const a = z[i];
            auto const b = z[i + cells];
            auto const d = z[i + 2 * cells];
            auto const e = z[i + 3 * cells];
            sum[i] += (a * a + b * b) + (d * d + e * e);
        }
    }
    for (; c < channels; ++c) {
        auto const* const z = embedding + c * cells;
        for (auto i = first; i < last; ++i) sum[i] += z[i] * z[i];
    }
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
                             detail::add_squares(embeddings + image * channels * cells, channels, cells, first,
                                                 std::min(cells, first + block), out + image * cells);
                         });
}

}  // namespace uflow
