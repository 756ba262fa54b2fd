// A hint to the processor: this address will be read soon.
#pragma once

// A macro, because gcc takes a function that only prefetches for one without effect and drops the call.
#if defined(__GNUC__)
#define UFLOW_PREFETCH(address) __builtin_prefetch(address)
#else
#define UFLOW_PREFETCH(address) static_cast<void>(address)
#endif
