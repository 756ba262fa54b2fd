// Memory that is kept from one map to the next and never cleared, and a hint that an address will be read soon.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <type_traits>

// A macro, because gcc takes a function that only prefetches for one without effect and drops the call.
#if defined(__GNUC__)
#define UFLOW_PREFETCH(address) __builtin_prefetch(address)
#else
#define UFLOW_PREFETCH(address) static_cast<void>(address)
#endif

namespace uflow {

template <class T>
struct Buffer {
    static_assert(std::is_trivially_copyable_v<T>);

    std::unique_ptr<T[]> data;
    std::size_t capacity = 0;
};

// Room for `size` elements of unspecified value; what was there before is lost.
template <class T>
[[nodiscard]] std::span<T> room(Buffer<T>& buffer, std::size_t size) {
    if (buffer.capacity < size) {
        buffer.data.reset();  // first: the old and the new never exist side by side
        buffer.capacity = 0;
        buffer.data = std::make_unique_for_overwrite<T[]>(size);
        buffer.capacity = size;
    }
    return {buffer.data.get(), size};
}

}  // namespace uflow
