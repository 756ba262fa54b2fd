// Disjoint sets with path halving; the caller says who becomes the root.
#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

namespace uflow {

struct UnionFind {
    std::vector<std::int32_t> link;  // towards the root; a root links to itself
};

[[nodiscard]] inline UnionFind make_union_find(std::size_t size) {
    UnionFind sets{std::vector<std::int32_t>(size)};
    std::iota(sets.link.begin(), sets.link.end(), 0);
    return sets;
}

[[nodiscard]] inline std::int32_t find_root(UnionFind& sets, std::int32_t element) {
    auto* const link = sets.link.data();
    while (link[element] != element) {
        link[element] = link[link[element]];
        element = link[element];
    }
    return element;
}

}  // namespace uflow
