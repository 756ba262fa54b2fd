// Independent jobs over a few threads. The only place of the core that knows of threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace uflow {

// As many threads as asked for (0: one per core), but not more than there are jobs, nor for less work than a thread
// costs.
[[nodiscard]] inline std::size_t useful_threads(std::size_t asked, std::size_t jobs, std::size_t pixels) {
    constexpr std::size_t pixels_worth_a_thread = 4096;
    if (asked == 0) asked = std::max(1U, std::thread::hardware_concurrency());
    return std::max<std::size_t>(1, std::min({asked, jobs, pixels / pixels_worth_a_thread}));
}

// Calls run(job, worker) for every job, worker < workers; the first exception of all is thrown again here.
template <class Run>
void for_each_in_parallel(std::size_t jobs, std::size_t workers, Run const& run) {
    if (workers <= 1) {
        for (std::size_t job = 0; job < jobs; ++job) run(job, std::size_t{0});
        return;
    }
    std::atomic<std::size_t> next{0};
    std::mutex mutex;
    std::exception_ptr error;
    auto const work = [&](std::size_t worker) {
        try {
            for (auto job = next++; job < jobs; job = next++) run(job, worker);
        } catch (...) {
            std::scoped_lock const lock(mutex);
            if (!error) error = std::current_exception();
            next = jobs;
        }
    };
    {
        std::vector<std::jthread> threads;
        for (std::size_t worker = 1; worker < workers; ++worker) threads.emplace_back(work, worker);
        work(0);
    }
    if (error) std::rethrow_exception(error);
}

}  // namespace uflow
