#include <doctest/doctest.h>

#include <limits>
#include <random>
#include <stdexcept>
#include <vector>

#include "uflow/nfa.hpp"

namespace {

struct Batch {
    static constexpr std::size_t images = 7;
    std::vector<float> fine = noise(1, 100 * 90), coarse = noise(2, 50 * 45);
    std::vector<float> fine_pfa = std::vector<float>(fine.size()), coarse_pfa = std::vector<float>(coarse.size());
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
        return {{fine.data(), images, 100, 90, {6.0}, fine_pfa.data(), fine_labels.data()},
                {coarse.data(), images, 50, 45, {6.0}, coarse_pfa.data(), coarse_labels.data()}};
    }
};

constexpr uflow::Settings kAll{uflow::Tests::by_size, uflow::Tail::chernoff, std::numeric_limits<double>::infinity(),
                               1};

}  // namespace

TEST_CASE("one thread gives the same bits as many") {
    Batch alone;
    auto const expected = uflow::detect(alone.scales(), kAll);
    for (std::size_t const threads : {0U, 2U, 5U}) {
        Batch batch;
        auto settings = kAll;
        settings.threads = threads;
        auto const found = uflow::detect(batch.scales(), settings);
        CHECK(found.log_nfa == expected.log_nfa);
        CHECK(found.image == expected.image);
        CHECK(found.scale == expected.scale);
        CHECK(found.label == expected.label);
        CHECK(batch.fine_pfa == alone.fine_pfa);
        CHECK(batch.coarse_labels == alone.coarse_labels);
    }
}

TEST_CASE("rows come by image, scale and label, and only below the limit") {
    Batch batch;
    auto const all = uflow::detect(batch.scales(), kAll);
    for (std::size_t i = 1; i < all.label.size(); ++i) {
        auto const key = [&](std::size_t row) { return std::tuple(all.image[row], all.scale[row], all.label[row]); };
        REQUIRE(key(i - 1) < key(i));
    }
    auto settings = kAll;
    settings.keep_below = 5.0;
    auto const some = uflow::detect(batch.scales(), settings);
    std::vector<double> expected;
    for (auto const log_nfa : all.log_nfa)
        if (log_nfa < 5.0) expected.push_back(log_nfa);
    CHECK(some.log_nfa == expected);
    CHECK(some.log_nfa.size() < all.log_nfa.size());
}

TEST_CASE("an error in any thread reaches the caller") {
    Batch batch;
    batch.coarse.back() = -1.0F;
    auto settings = kAll;
    for (settings.threads = 1; settings.threads < 4; ++settings.threads)
        CHECK_THROWS_AS((void)uflow::detect(batch.scales(), settings), std::invalid_argument);
    auto scales = batch.scales();
    scales[1].images = 3;
    CHECK_THROWS_AS((void)uflow::detect(scales, kAll), std::invalid_argument);
    CHECK_THROWS_AS((void)uflow::detect({}, kAll), std::invalid_argument);
}

TEST_CASE("no images, no regions") {
    std::vector<uflow::Scale> const scales{{nullptr, 0, 3, 3, {6.0}, nullptr, nullptr}};
    CHECK(uflow::detect(scales, kAll).label.empty());
}
