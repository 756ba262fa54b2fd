// Bytes to a map of at most 64 cells with many ties; the core must agree with the oracle to the last bit.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "oracle.hpp"
#include "uflow/regions.hpp"

namespace {

void require(bool holds) {
    if (!holds) std::abort();
}

struct Case {
    std::size_t height, width;
    uflow::TailLaw law;
    std::vector<float> values;
};

Case read_case(std::span<std::uint8_t const> bytes) {
    auto const tail = static_cast<uflow::Tail>(bytes[0] % 2);
    auto const width = std::size_t{1} + bytes[1] % 8;
    auto const k = 0.25 * (1 + bytes[2]);
    auto const scale = 0.5 + bytes[3] / 128.0;
    auto const step = static_cast<float>(k / (1 + bytes[4] % 64));  // a few to a few hundred levels around the mean
    auto const height = std::min<std::size_t>(8, (bytes.size() - 5) / width);
    std::vector<float> values;
    for (auto const byte : bytes.subspan(5, height * width)) values.push_back(static_cast<float>(byte) * step);
    return {height, width, uflow::make_tail_law({k, scale}, tail), values};
}

void check(Case const& c) {
    auto const grid = uflow::make_grid(c.values.data(), c.height, c.width);
    std::vector<std::int32_t> labels(c.values.size(), -7);
    static uflow::Workspace workspace;  // left dirty by the case before, as it is in a batch
    auto const found = uflow::find_regions(grid, c.law, labels, workspace);
    auto const expected = oracle::regions(grid, c.law);

    require(found.size() == expected.size());
    for (auto const label : labels) require(label >= -1 && label < static_cast<std::int32_t>(found.size()));
    for (std::size_t i = 0; i < found.size(); ++i) {
        auto const& region = found[i];
        require(region.level == expected[i].level && region.log_pfa == expected[i].log_pfa);
        require(region.area == std::popcount(expected[i].cells));
        for (std::size_t p = 0; p < labels.size(); ++p) {
            bool const inside = expected[i].cells >> p & 1;
            require((labels[p] == static_cast<std::int32_t>(i)) == inside);
            if (!inside) continue;
            require(c.values[p] >= region.level && c.values[p] <= region.peak);
            auto const y = static_cast<int>(p / c.width);
            auto const x = static_cast<int>(p % c.width);
            require(region.top <= y && y < region.bottom && region.left <= x && x < region.right);
        }
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
    if (size < 6) return -1;
    auto const c = read_case({data, size});
    if (c.values.empty()) return -1;
    check(c);
    return 0;
}
