// Arrays to views, vectors to arrays; nothing else lives here. The friendly layer is uflow_cli/detection/nfa.py.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "uflow/chi2.hpp"
#include "uflow/evidence.hpp"
#include "uflow/max_tree.hpp"
#include "uflow/nfa.hpp"
#include "uflow/number_of_tests.hpp"

namespace py = pybind11;

namespace {

template <class T>
using CArray = py::array_t<T, py::array::c_style>;  // no forcecast: a wrong dtype is an error, not a copy

// Hands the memory to NumPy, copies nothing.
template <class T>
py::array_t<T> as_array(std::vector<T>&& values) {
    auto owned = std::make_unique<std::vector<T>>(std::move(values));
    auto const size = static_cast<py::ssize_t>(owned->size());
    T* const data = owned->data();
    py::capsule const base(owned.get(), [](void* p) { delete static_cast<std::vector<T>*>(p); });
    (void)owned.release();  // only now does the capsule own it
    return py::array_t<T>(size, data, base);
}

template <class T>
std::size_t extent(CArray<T> const& array, int axis) {
    return static_cast<std::size_t>(array.shape(axis));
}

void need_dimensions(py::array const& array, py::ssize_t ndim, char const* what) {
    if (array.ndim() != ndim) throw std::invalid_argument(what);
    if (!(array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_))
        throw std::invalid_argument("the values of an array must be aligned in memory");
}

uflow::Tail as_tail(std::string const& name) {
    if (name == "chernoff") return uflow::Tail::chernoff;
    if (name == "published") return uflow::Tail::published;
    throw std::invalid_argument("tail must be chernoff or published, not " + name);
}

uflow::Tests as_tests(std::string const& name) {
    if (name == "paper") return uflow::Tests::paper;
    if (name == "by-size") return uflow::Tests::by_size;
    throw std::invalid_argument("tests must be paper or by-size, not " + name);
}

using Columns = py::typing::Tuple<py::array, py::ellipsis>;
using Found = py::typing::Tuple<py::typing::List<py::array_t<std::int32_t>>, Columns>;
using Tree = py::typing::Tuple<py::array_t<std::int32_t>, py::array_t<std::int32_t>, py::array_t<std::int32_t>>;

// A column of the table of regions: T in Python, a field in C++.
template <class T, class Field>
struct Column {
    Field uflow::Region::* field;
};

template <class T, class Field>
Column<T, Field> as(Field uflow::Region::* field) {
    return {field};
}

template <class... T, class... Field>
Columns as_columns(std::vector<std::vector<uflow::Region>> const& maps, Column<T, Field>... columns) {
    std::size_t size = 0;
    for (auto const& regions : maps) size += regions.size();
    std::tuple<py::array_t<T>...> arrays{py::array_t<T>(static_cast<py::ssize_t>(size))...};
    std::apply(
        [&](auto... to) {
            py::gil_scoped_release const nogil;
            for (auto const& regions : maps)
                for (auto const& region : regions) ((*to++ = region.*columns.field), ...);
        },
        std::apply([](auto&... array) { return std::tuple{array.mutable_data()...}; }, arrays));
    return std::apply([](auto&... array) { return py::make_tuple(std::move(array)...); }, arrays);
}

Found find_regions(std::vector<CArray<float>> const& squared_norms, std::vector<double> const& degrees_of_freedom,
                   std::vector<double> const& scales, std::string const& tests, std::string const& tail,
                   std::size_t n_threads) {
    if (degrees_of_freedom.size() != squared_norms.size() || scales.size() != squared_norms.size())
        throw std::invalid_argument("every scale needs its degrees of freedom and its scale");
    uflow::Settings const settings{as_tests(tests), as_tail(tail), n_threads};
    py::list labels;
    std::vector<uflow::Scale> batch;
    for (std::size_t s = 0; s < squared_norms.size(); ++s) {
        auto const& u = squared_norms[s];
        need_dimensions(u, 3, "a map of squared norms is (images, height, width)");
        py::array_t<std::int32_t> label_map(std::vector<py::ssize_t>(u.shape(), u.shape() + 3));
        batch.push_back({u.data(),
                         extent(u, 0),
                         extent(u, 1),
                         extent(u, 2),
                         {degrees_of_freedom[s], scales[s]},
                         label_map.mutable_data()});
        labels.append(std::move(label_map));
    }
    auto const maps = [&] {
        py::gil_scoped_release const nogil;
        return uflow::detect(batch, settings);
    }();
    using R = uflow::Region;
    using Int = std::int32_t;
    auto columns = as_columns(maps, as<Int>(&R::image), as<Int>(&R::scale), as<Int>(&R::label), as<double>(&R::level),
                              as<double>(&R::log_pfa), as<double>(&R::log_nfa), as<std::int64_t>(&R::area),
                              as<Int>(&R::top), as<Int>(&R::left), as<Int>(&R::bottom), as<Int>(&R::right),
                              as<double>(&R::row), as<double>(&R::column), as<double>(&R::peak), as<double>(&R::total));
    return py::make_tuple(std::move(labels), std::move(columns));
}

py::array_t<float> fuse_evidence(std::vector<CArray<float>> const& squared_norms,
                                 std::vector<double> const& degrees_of_freedom, std::vector<double> const& scales,
                                 std::vector<double> const& weights, std::size_t n_threads) {
    auto const n = squared_norms.size();
    if (degrees_of_freedom.size() != n || scales.size() != n || weights.size() != n)
        throw std::invalid_argument("every source needs its degrees of freedom, its scale and its weight");
    std::vector<uflow::Source> sources;
    for (std::size_t s = 0; s < n; ++s) {
        auto const& u = squared_norms[s];
        need_dimensions(u, 3, "a map of squared norms is (images, height, width)");
        sources.push_back(
            {u.data(), extent(u, 0), extent(u, 1), extent(u, 2), {degrees_of_freedom[s], scales[s]}, weights[s]});
    }
    auto const size = uflow::size_of_evidence(sources);
    py::array_t<float> evidence({sources.front().images, size.height, size.width});
    auto* const to = evidence.mutable_data();
    {
        py::gil_scoped_release const nogil;
        uflow::fuse_evidence(sources, to, n_threads);
    }
    return evidence;
}

Tree max_tree(CArray<float> const& score) {
    need_dimensions(score, 2, "score is (height, width)");
    auto const grid = uflow::make_grid(score.data(), extent(score, 0), extent(score, 1));
    auto tree = [&] {
        py::gil_scoped_release const nogil;
        return uflow::build_max_tree(grid);
    }();
    return py::make_tuple(as_array(std::move(tree.parent)), as_array(std::move(tree.order)),
                          as_array(std::move(tree.area)));
}

py::array_t<double> chi2_log_tail(CArray<double> const& x, double degrees_of_freedom, double scale,
                                  std::string const& tail) {
    need_dimensions(x, 1, "x is (n,)");
    auto const law = uflow::make_tail_law({degrees_of_freedom, scale}, as_tail(tail));
    std::vector<double> result(extent(x, 0));
    {
        auto const* const data = x.data();
        py::gil_scoped_release const nogil;
        for (std::size_t i = 0; i < result.size(); ++i) result[i] = uflow::log_tail(law, data[i]);
    }
    return as_array(std::move(result));
}

double log_n_tests(std::vector<std::size_t> const& cells) { return uflow::log_n_tests(cells); }

py::array_t<double> log_n_tests_by_size(std::vector<std::size_t> const& cells, CArray<double> const& area) {
    need_dimensions(area, 1, "area is (n,)");
    auto const shared = uflow::log_n_positions_and_sizes(cells);
    std::vector<double> result(extent(area, 0));
    for (std::size_t i = 0; i < result.size(); ++i) result[i] = uflow::log_n_tests_by_size(shared, area.data()[i]);
    return as_array(std::move(result));
}

}  // namespace

PYBIND11_MODULE(_core, m, py::mod_gil_not_used(), py::multiple_interpreters::per_interpreter_gil()) {
    m.doc() = "Native core of uflow; call it through uflow_cli.detection.nfa.";
    m.def("find_regions", &find_regions, py::arg("squared_norms").noconvert(), py::arg("degrees_of_freedom"),
          py::arg("scales"), py::arg("tests"), py::arg("tail"), py::arg("n_threads"),
          "Label maps and the columns of the region table, of squared norms (B, H_s, W_s) per scale.");
    m.def("fuse_evidence", &fuse_evidence, py::arg("squared_norms").noconvert(), py::arg("degrees_of_freedom"),
          py::arg("scales"), py::arg("weights"), py::arg("n_threads"),
          "Evidence (B, H, W) on the finest grid, of squared norms (B, H_s, W_s) per source.");
    m.def("max_tree", &max_tree, py::arg("score").noconvert(),
          "Max-tree of `score` (H, W): parent, order and area, each (H*W,).");
    m.def("chi2_log_tail", &chi2_log_tail, py::arg("x").noconvert(), py::arg("degrees_of_freedom"), py::arg("scale"),
          py::arg("tail"), "log10 of the bound of the tail of scale * chi2 at each x (n,).");
    m.def("log_n_tests", &log_n_tests, py::arg("cells"), "log10 N_T of grids of so many cells (paper eq. 9).");
    m.def("log_n_tests_by_size", &log_n_tests_by_size, py::arg("cells"), py::arg("area").noconvert(),
          "log10 N_T(n) for each area n (n,), of grids of so many cells.");
}
