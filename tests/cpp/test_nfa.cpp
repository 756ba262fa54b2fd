#include <doctest/doctest.h>

#include <random>
#include <span>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "uflow/nfa.hpp"

namespace {

struct Batch {
    static constexpr std::size_t images = 7;
    std::vector<float> fine = noise(1, 100 * 90), coarse = noise(2, 50 * 45);
    std::vector<std::int32_t> fine_labels = std::vector<std::int32_t>(fine.size());
    std::vector<std::int32_t> coarse_labels = std::vector<std::int32_t>(coarse.size());

    static std::vector<float> noise(unsigned seed, std::size_t cells) {
        std::mt19937 random(seed);
        std::chi_squared_distribution<float> chi2(6.0F);
        std::vector<float> values(images * cells);
        for (auto& value : values) value = chi2(random);
        return values;
    }

    [[nodiscard]] std::vector<uflow::Scale> scales() {
        return {{fine.data(), images, 100, 90, {6.0}, fine_labels.data()},
                {coarse.data(), images, 50, 45, {6.0}, coarse_labels.data()}};
    }
};

constexpr uflow::Settings kAlone{uflow::Tests::by_size, uflow::Tail::chernoff, 1};

std::vector<uflow::Region> detect_all(std::span<uflow::Scale const> scales, uflow::Settings const& settings) {
    std::vector<uflow::Region> table;
    for (auto const& regions : uflow::detect(scales, settings))
        table.insert(table.end(), regions.begin(), regions.end());
    return table;
}

auto key(uflow::Region const& r) { return std::tuple(r.image, r.scale, r.label); }

}  // namespace

TEST_CASE("one thread gives the same bits as many") {
    Batch alone;
    auto const expected = detect_all(alone.scales(), kAlone);
    for (std::size_t const threads : {0U, 2U, 5U}) {
        Batch batch;
        auto settings = kAlone;
        settings.threads = threads;
        auto const found = detect_all(batch.scales(), settings);
        REQUIRE(found.size() == expected.size());
        for (std::size_t i = 0; i < found.size(); ++i) {
            REQUIRE(key(found[i]) == key(expected[i]));
            REQUIRE(found[i].log_nfa == expected[i].log_nfa);
        }
        CHECK(batch.fine_labels == alone.fine_labels);
        CHECK(batch.coarse_labels == alone.coarse_labels);
    }
}

TEST_CASE("regions come by image, scale and label") {
    Batch batch;
    auto const all = detect_all(batch.scales(), kAlone);
    CHECK(all.size() > 100);
    for (std::size_t i = 1; i < all.size(); ++i) REQUIRE(key(all[i - 1]) < key(all[i]));
}

TEST_CASE("log NFA is log PFA and the number of tests") {
    Batch batch;
    std::vector<std::size_t> const cells{100 * 90, 50 * 45};
    auto const shared = uflow::log_n_positions_and_sizes(cells);
    for (auto const& r : detect_all(batch.scales(), kAlone))
        REQUIRE(r.log_nfa == uflow::log_n_tests_by_size(shared, static_cast<double>(r.area)) + r.log_pfa);
    auto settings = kAlone;
    settings.tests = uflow::Tests::paper;
    for (auto const& r : detect_all(batch.scales(), settings))
        REQUIRE(r.log_nfa == uflow::log_n_tests(cells) + r.log_pfa);
}

TEST_CASE("an error in any thread reaches the caller") {
    Batch batch;
    batch.coarse.back() = -1.0F;
    auto settings = kAlone;
    for (settings.threads = 1; settings.threads < 4; ++settings.threads)
        CHECK_THROWS_AS((void)detect_all(batch.scales(), settings), std::invalid_argument);
    auto scales = batch.scales();
    scales[1].images = 3;
    CHECK_THROWS_AS((void)detect_all(scales, kAlone), std::invalid_argument);
    CHECK_THROWS_AS((void)detect_all({}, kAlone), std::invalid_argument);
}

TEST_CASE("no images, no regions") {
    std::vector<uflow::Scale> const scales{{nullptr, 0, 3, 3, {6.0}, nullptr}};
    CHECK(detect_all(scales, kAlone).empty());
}
