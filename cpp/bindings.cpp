// Arrays to views, vectors to arrays; nothing else lives here. The friendly layer is uflow_cli/nfa.py.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "uflow/chi2.hpp"
#include "uflow/max_tree.hpp"
#include "uflow/nfa.hpp"
#include "uflow/number_of_tests.hpp"
#include "uflow/squared_norm.hpp"
#include "uflow/tree_attributes.hpp"

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
}

uflow::Tail as_tail(std::string const& name) {
    if (name == "chernoff") return uflow::Tail::chernoff;
    if (name == "published") return uflow::Tail::published;
    if (name == "exact") return uflow::Tail::exact;
    throw std::invalid_argument("tail must be chernoff, published or exact, not " + name);
}

uflow::Tests as_tests(std::string const& name) {
    if (name == "paper") return uflow::Tests::paper;
    if (name == "by-size") return uflow::Tests::by_size;
    throw std::invalid_argument("tests must be paper or by-size, not " + name);
}

template <class T>
using Array = py::array_t<T>;
using Columns =
    py::typing::Tuple<Array<std::int32_t>, Array<std::int32_t>, Array<std::int32_t>, Array<double>, Array<double>,
                      Array<double>, Array<std::int64_t>, Array<std::int32_t>, Array<std::int32_t>, Array<std::int32_t>,
                      Array<std::int32_t>, Array<double>, Array<double>>;
using Maps = py::typing::Tuple<py::typing::List<Array<float>>, py::typing::List<Array<std::int32_t>>, Columns>;
using Tree = py::typing::Tuple<Array<std::int32_t>, Array<std::int32_t>, Array<std::int32_t>>;

Columns as_columns(uflow::RegionTable&& t) {
    return py::make_tuple(as_array(std::move(t.image)), as_array(std::move(t.scale)), as_array(std::move(t.label)),
                          as_array(std::move(t.level)), as_array(std::move(t.log_pfa)), as_array(std::move(t.log_nfa)),
                          as_array(std::move(t.area)), as_array(std::move(t.top)), as_array(std::move(t.left)),
                          as_array(std::move(t.bottom)), as_array(std::move(t.right)), as_array(std::move(t.row)),
                          as_array(std::move(t.column)));
}

Maps a_contrario(std::vector<CArray<float>> const& squared_norms, std::vector<double> const& degrees_of_freedom,
                 std::vector<double> const& scales, std::string const& tests, std::string const& tail,
                 double keep_below, std::size_t n_threads) {
    if (degrees_of_freedom.size() != squared_norms.size() || scales.size() != squared_norms.size())
        throw std::invalid_argument("every scale needs its degrees of freedom and its scale");
    uflow::Settings const settings{as_tests(tests), as_tail(tail), keep_below, n_threads};
    py::list log_pfa;
    py::list labels;
    std::vector<uflow::Scale> batch;
    for (std::size_t s = 0; s < squared_norms.size(); ++s) {
        auto const& u = squared_norms[s];
        need_dimensions(u, 3, "a map of squared norms is (images, height, width)");
        std::vector<py::ssize_t> const shape(u.shape(), u.shape() + 3);
        py::array_t<float> log_pfa_map(shape);
        py::array_t<std::int32_t> label_map(shape);
        batch.push_back({u.data(),
                         extent(u, 0),
                         extent(u, 1),
                         extent(u, 2),
                         {degrees_of_freedom[s], scales[s]},
                         log_pfa_map.mutable_data(),
                         label_map.mutable_data()});
        log_pfa.append(std::move(log_pfa_map));
        labels.append(std::move(label_map));
    }
    auto table = [&] {
        py::gil_scoped_release const nogil;
        return uflow::detect(batch, settings);
    }();
    return py::make_tuple(std::move(log_pfa), std::move(labels), as_columns(std::move(table)));
}

Tree max_tree(CArray<float> const& score) {
    need_dimensions(score, 2, "score is (height, width)");
    auto const grid = uflow::make_grid(score.data(), extent(score, 0), extent(score, 1));
    auto [tree, area] = [&] {
        py::gil_scoped_release const nogil;
        auto built = uflow::build_max_tree(grid);
        auto sizes = uflow::component_area(grid, built);
        return std::pair{std::move(built), std::move(sizes)};
    }();
    return py::make_tuple(as_array(std::move(tree.parent)), as_array(std::move(tree.order)), as_array(std::move(area)));
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

py::array_t<float> squared_norm(CArray<float> const& embeddings, std::size_t n_threads) {
    need_dimensions(embeddings, 4, "embeddings are (images, channels, height, width)");
    py::array_t<float> result({embeddings.shape(0), embeddings.shape(2), embeddings.shape(3)});
    auto const images = extent(embeddings, 0);
    auto const channels = extent(embeddings, 1);
    auto const cells = extent(embeddings, 2) * extent(embeddings, 3);
    auto const* const from = embeddings.data();
    auto* const to = result.mutable_data();
    {
        py::gil_scoped_release const nogil;
        uflow::squared_norm(from, images, channels, cells, to, n_threads);
    }
    return result;
}

}  // namespace

PYBIND11_MODULE(_core, m, py::mod_gil_not_used(), py::multiple_interpreters::per_interpreter_gil()) {
    m.doc() = "Native core of uflow; call it through uflow_cli.nfa.";
    m.def("a_contrario", &a_contrario, py::arg("squared_norms").noconvert(), py::arg("degrees_of_freedom"),
          py::arg("scales"), py::arg("tests"), py::arg("tail"), py::arg("keep_below"), py::arg("n_threads"),
          "log PFA maps, label maps and the columns of the region table, of squared norms (B, H_s, W_s) per scale.");
    m.def("max_tree", &max_tree, py::arg("score").noconvert(),
          "Max-tree of `score` (H, W): parent, order and area, each (H*W,).");
    m.def("chi2_log_tail", &chi2_log_tail, py::arg("x").noconvert(), py::arg("degrees_of_freedom"), py::arg("scale"),
          py::arg("tail"), "log10 of the tail of scale * chi2 at each x (n,).");
    m.def("log_n_tests", &log_n_tests, py::arg("cells"), "log10 N_T of grids of so many cells (paper eq. 9).");
    m.def("log_n_tests_by_size", &log_n_tests_by_size, py::arg("cells"), py::arg("area").noconvert(),
          "log10 N_T(n) for each area n (n,), of grids of so many cells.");
    m.def("squared_norm", &squared_norm, py::arg("embeddings").noconvert(), py::arg("n_threads"),
          "Sum of squares over channels of `embeddings` (B, C, H, W): (B, H, W).");
}
