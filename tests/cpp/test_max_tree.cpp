#include <doctest/doctest.h>

#include <limits>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "oracle.hpp"
#include "uflow/max_tree.hpp"

namespace {

bool is_canonical(uflow::Grid const& grid, uflow::MaxTree const& tree, uflow::Pixel p) {
    auto const parent = tree.parent[static_cast<std::size_t>(p)];
    return parent == p || grid.values[static_cast<std::size_t>(parent)] != grid.values[static_cast<std::size_t>(p)];
}

using Nodes = std::set<std::pair<oracle::Cells, float>>;

Nodes nodes_of(uflow::Grid const& grid, uflow::MaxTree const& tree) {
    std::vector<oracle::Cells> cells(tree.order.size());
    for (auto i = tree.order.size(); i-- > 0;) {
        auto const p = static_cast<std::size_t>(tree.order[i]);
        cells[p] |= oracle::Cells{1} << p;
        cells[static_cast<std::size_t>(tree.parent[p])] |= cells[p];
    }
    Nodes nodes;
    for (auto const p : tree.order)
        if (is_canonical(grid, tree, p))
            nodes.emplace(cells[static_cast<std::size_t>(p)], grid.values[static_cast<std::size_t>(p)]);
    return nodes;
}

}  // namespace

TEST_CASE("nodes are the components of all upper level sets, and attributes count them") {
    std::mt19937 random(1);
    for (int round = 0; round < 3000; ++round) {
        auto const height = 1 + random() % 8;
        auto const width = 1 + random() % 8;
        std::vector<float> values(height * width);
        for (auto& value : values) value = static_cast<float>(random() % (2 + random() % 9));
        auto const grid = uflow::make_grid(values.data(), height, width);
        auto const tree = uflow::build_max_tree(grid);

        Nodes expected;
        for (auto const& component : oracle::components(grid)) expected.emplace(component.cells, component.level);
        REQUIRE(nodes_of(grid, tree) == expected);

        auto const& area = tree.area;
        std::size_t n_nodes = 0;
        for (std::size_t p = 0; p < values.size(); ++p) {
            auto const parent = static_cast<std::size_t>(tree.parent[p]);
            if (is_canonical(grid, tree, static_cast<uflow::Pixel>(p))) {
                ++n_nodes;
                REQUIRE((parent == p || area[parent] > area[p]));
            } else {
                REQUIRE(area[parent] == area[p]);
            }
        }
        REQUIRE(n_nodes == expected.size());
    }
}

TEST_CASE("NaN has no place in an order") {
    std::vector<float> const values{1.0F, std::numeric_limits<float>::quiet_NaN()};
    CHECK_THROWS_AS((void)uflow::build_max_tree(uflow::make_grid(values.data(), 1, 2)), std::invalid_argument);
}
