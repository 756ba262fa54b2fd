#include <doctest/doctest.h>

#include <random>
#include <vector>

#include "uflow/squared_norm.hpp"

TEST_CASE("U is the sum of squares over channels, for any number of channels, cells and threads") {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (std::size_t const images : {1U, 3U})
        for (std::size_t const channels : {1U, 2U, 3U, 4U, 7U, 64U})
            for (std::size_t const cells : {1U, 5U, 63U, 2048U, 4500U}) {
                std::vector<float> z(images * channels * cells);
                for (auto& value : z) value = normal(random);
                std::vector<float> alone(images * cells, -1.0F);
                std::vector<float> many(images * cells, -1.0F);
                uflow::squared_norm(z.data(), images, channels, cells, alone.data(), 1);
                uflow::squared_norm(z.data(), images, channels, cells, many.data(), 4);
                REQUIRE(alone == many);
                for (std::size_t image = 0; image < images; ++image)
                    for (std::size_t i = 0; i < cells; ++i) {
                        double expected = 0.0;
                        for (std::size_t c = 0; c < channels; ++c) {
                            double const value = z[(image * channels + c) * cells + i];
                            expected += value * value;
                        }
                        REQUIRE(alone[image * cells + i] == doctest::Approx(expected).epsilon(1e-5));
                    }
            }
}
