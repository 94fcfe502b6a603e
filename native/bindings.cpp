// The bindings of tables: NumPy buffers in, NumPy buffers out, the GIL released while rows move.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <stdexcept>

#include "clock.hpp"
#include "kernels.hpp"
#include "memory.hpp"
#include "plan.hpp"
#include "threads.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace rowwise {

void bind_vectors(nb::module_& m);   // vectors_bindings.cpp
void bind_word2vec(nb::module_& m);  // word2vec_bindings.cpp

namespace {

using Matrix = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Vectors = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using Ids = nb::ndarray<const int64_t, nb::c_contig, nb::device::cpu>;
using Positions = nb::ndarray<int64_t, nb::c_contig, nb::device::cpu>;
using Weights = std::optional<Vectors>;
using PerId = std::pair<nb::ndarray<nb::numpy, int64_t, nb::ndim<1>>,
                        nb::ndarray<nb::numpy, float, nb::ndim<2>>>;
using Past = std::pair<nb::ndarray<nb::numpy, double, nb::ndim<2>>,
                       nb::ndarray<nb::numpy, double, nb::ndim<1>>>;
using GivenPast = std::pair<nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>,
                            nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>>;
using Bytes = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// What hands memory to `Free` once no array needs it.
template <void (*Free)(void*, std::size_t)>
nb::capsule owner_of(void* memory, std::size_t bytes) {
    struct Block {
        void* memory;
        std::size_t bytes;
    };
    return nb::capsule(new Block{memory, bytes}, [](void* p) noexcept {
        auto* block = static_cast<Block*>(p);
        Free(block->memory, block->bytes);
        delete block;
    });
}

// Zeroed bytes on huge pages, freed with the array.
nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>> zeros(std::size_t bytes) {
    void* memory = allocate(bytes);
    if (memory == nullptr) throw std::bad_alloc();
    return {memory, {bytes}, owner_of<release>(memory, bytes)};
}

// An array of numbers not yet written, in memory that is used again.
template <class T, class... Shape>
auto fresh_array(Shape... shape) {
    std::size_t bytes = (sizeof(T) * ... * static_cast<std::size_t>(shape));
    void* memory = borrow(bytes);
    if (memory == nullptr) throw std::bad_alloc();
    return nb::ndarray<nb::numpy, T, nb::ndim<sizeof...(shape)>>(
        memory, {static_cast<std::size_t>(shape)...}, owner_of<give_back>(memory, bytes));
}

Family family_of(const std::string& name) {
    static const std::pair<const char*, Family> families[] = {
        {"sgd", Family::sgd},
        {"momentum", Family::momentum},
        {"nesterov", Family::nesterov},
        {"torch_momentum", Family::torch_momentum},
        {"torch_nesterov", Family::torch_nesterov},
        {"rmsprop", Family::rmsprop},
        {"rmsprop_momentum", Family::rmsprop_momentum},
        {"rmsprop_centered", Family::rmsprop_centered},
        {"rmsprop_centered_momentum", Family::rmsprop_centered_momentum},
        {"torch_rmsprop", Family::torch_rmsprop},
        {"torch_rmsprop_momentum", Family::torch_rmsprop_momentum},
        {"torch_rmsprop_centered", Family::torch_rmsprop_centered},
        {"torch_rmsprop_centered_momentum", Family::torch_rmsprop_centered_momentum},
        {"adagrad", Family::adagrad},
        {"torch_adagrad", Family::torch_adagrad},
        {"adadelta", Family::adadelta},
        {"adam", Family::adam},
        {"adam_amsgrad", Family::adam_amsgrad},
        {"nadam", Family::nadam},
        {"adamax", Family::adamax},
        {"torch_adamax", Family::torch_adamax},
        {"lion", Family::lion},
        {"ftrl", Family::ftrl},
    };
    for (const auto& [known, family] : families)
        if (name == known) return family;
    throw std::invalid_argument("no kernel for rule family '" + name + "'");
}

// `shrink`: what a missed step multiplies the denominator of a movement by; `window`: how many
// missed steps matter to it.
Rule make_rule(const std::string& family, double momentum, double rho, double beta_1,
               double beta_2, double epsilon, double learning_rate_power, double l1, double l2,
               double beta, double shrink, uint32_t window) {
    Rule rule{family_of(family), {}};
    Hyper& h = rule.hyper;
    h.momentum = static_cast<float>(momentum);
    h.rho = static_cast<float>(rho);
    h.one_minus_rho = static_cast<float>(1 - rho);
    h.beta_1 = static_cast<float>(beta_1);
    h.one_minus_beta_1 = static_cast<float>(1 - beta_1);
    h.beta_2 = static_cast<float>(beta_2);
    h.one_minus_beta_2 = static_cast<float>(1 - beta_2);
    h.epsilon = static_cast<float>(epsilon);
    h.power = static_cast<float>(-learning_rate_power);
    h.l1 = static_cast<float>(l1);
    h.two_l2 = static_cast<float>(2 * l2);
    h.beta = static_cast<float>(beta);
    h.window_shrink = static_cast<float>(std::pow(shrink, window));
    h.exact_beta_1 = beta_1;
    h.exact_shrink = shrink;
    h.exact_epsilon = epsilon;
    return rule;
}

// Position in the flat batch of the first id outside 0..rows-1, or -1.
int64_t first_outside(const int64_t* ids, int64_t n, int64_t rows) {
    const auto bound = static_cast<uint64_t>(rows);
    bool any = false;
    for (int64_t i = 0; i < n; ++i) any |= static_cast<uint64_t>(ids[i]) >= bound;
    if (!any) return -1;
    for (int64_t i = 0;; ++i)
        if (static_cast<uint64_t>(ids[i]) >= bound) return i;
}

// Position in the flat array of the first number that is not finite, or -1.
int64_t first_nonfinite(Vectors values) {
    const float* v = values.data();
    const auto n = static_cast<int64_t>(values.size());
    nb::gil_scoped_release release;
    std::atomic<int64_t> first{n};
    parallel(n, 1 << 16, [&](int64_t begin, int64_t end) {
        // x - x is 0 for every finite x, and NaN otherwise.
        bool clean = true;
        for (int64_t i = begin; i < end; ++i) clean &= (v[i] - v[i] == 0.0f);
        if (clean) return;
        for (int64_t i = begin; i < end; ++i) {
            if (std::isfinite(v[i])) continue;
            int64_t seen = first;
            while (i < seen && !first.compare_exchange_weak(seen, i)) {}
            return;
        }
    });
    return first == n ? -1 : first.load();
}

// Bag b of a batch of n ids holds those from offsets[b] to offsets[b + 1].
void check_offsets(Ids offsets, int64_t n) {
    const int64_t* at = offsets.data();
    const int64_t count = static_cast<int64_t>(offsets.size()) - 1;
    if (count < 0 || at[0] != 0) throw std::invalid_argument("offsets must begin with 0");
    for (int64_t b = 0; b < count; ++b)
        if (at[b + 1] < at[b])
            throw std::invalid_argument(
                "offset " + std::to_string(at[b + 1]) + " at position " + std::to_string(b + 1) +
                " is below the one before it, " + std::to_string(at[b]));
    if (at[count] != n)
        throw std::invalid_argument("the last offset, " + std::to_string(at[count]) +
                                    ", must be the number of ids, " + std::to_string(n));
}

// Bags as the kernels take them.
Bags make_bags(const Ids& ids, const Ids& offsets, const Weights& weights) {
    const auto n = static_cast<int64_t>(ids.size());
    if (weights && static_cast<int64_t>(weights->size()) != n)
        throw std::invalid_argument("weights must hold one number per id");
    check_offsets(offsets, n);
    return {ids.data(), offsets.data(), weights ? weights->data() : nullptr, n,
            static_cast<int64_t>(offsets.size()) - 1};
}

// The plan of a batch of bags, kept for when its gradients are summed or made a step of.
struct BagPlan {
    Plan plan;
    int64_t bags, rows;
};

// One step's numbers, as Python gives them.
struct Numbers {
    int64_t number;
    double lr, keep, scale, gradient_scale, epsilon_factor;
};

// A table's buffers and the rule and clock they follow, with one lock: readers beside each other,
// a writer alone. It is taken without the GIL, or by someone whom no holder waits for.
class Rows {
  public:
    Rows(Matrix weights, Bytes states) : weights_(weights), states_(states) {
        const std::size_t rows = weights.shape(0), dim = weights.shape(1);
        if (states.shape(0) != rows * sizeof(RowState))
            throw std::invalid_argument("states must hold one row state per row");
        store_.weights = weights.data();
        store_.states = reinterpret_cast<RowState*>(states.data());
        store_.rows = static_cast<int64_t>(rows);
        store_.dim = static_cast<int64_t>(dim);
    }

    // Every row must be current. `advances`: whether rows notice a step that did not touch them.
    void follow(const Rule& rule, std::vector<Matrix> slots, bool fresh, bool advances,
                double ratio, double growth, int terms, bool endless, uint32_t window,
                const std::vector<double>& slot_decay) {
        if (slots.size() > kSlots) throw std::invalid_argument("too many slots");
        for (const Matrix& slot : slots)
            if (slot.shape(0) != weights_.shape(0) || slot.shape(1) != weights_.shape(1))
                throw std::invalid_argument("a slot must have the table's shape");
        auto clock = std::make_unique<Clock>(ratio, growth, terms, endless, window, slot_decay);
        const std::unique_lock lock(mutex_);
        rule_ = rule;
        clock_ = std::move(clock);
        advances_ = advances;
        store_.fresh = fresh;
        slots_ = std::move(slots);
        for (std::size_t i = 0; i < slots_.size(); ++i) store_.slots[i] = slots_[i].data();
    }

    // Returns -1, or the position of an id outside the table; then nothing was read.
    int64_t lookup(Ids ids, Out out) const {
        const auto n = static_cast<int64_t>(ids.size());
        if (static_cast<int64_t>(out.size()) != n * store_.dim)
            throw std::invalid_argument("out must hold one vector per id");
        const nb::gil_scoped_release release;
        const std::shared_lock lock(mutex_);
        const int64_t bad = first_outside(ids.data(), n, store_.rows);
        if (bad < 0) kernels().lookup(store_, rule_, *clock_, ids.data(), n, out.data());
        return bad;
    }

    // The kernels' `pool`; returns -1, or the position of an id outside the table; then nothing
    // was written.
    int64_t pool(Ids ids, Ids offsets, Weights weights, Out out) const {
        const Bags bags = make_bags(ids, offsets, weights);
        check_size(out, bags.count * store_.dim, "out must hold one vector per bag");
        return reading(bags, [&](const Kernels& kernels) {
            kernels.pool(store_, rule_, *clock_, bags, out.data());
        });
    }

    int64_t pool_max(Ids ids, Ids offsets, Out out, Positions argmax) const {
        const Bags bags = make_bags(ids, offsets, std::nullopt);
        check_size(out, bags.count * store_.dim, "out must hold one vector per bag");
        check_size(argmax, bags.count * store_.dim, "argmax must have the shape of out");
        return reading(bags, [&](const Kernels& kernels) {
            kernels.pool_max(store_, rule_, *clock_, bags, out.data(), argmax.data());
        });
    }

    int64_t pool_dots(Ids ids, Ids offsets, Vectors gradients, Out out) const {
        const Bags bags = make_bags(ids, offsets, std::nullopt);
        check_size(gradients, bags.count * store_.dim, "gradients must hold one vector per bag");
        check_size(out, bags.n, "out must hold one number per id");
        return reading(bags, [&](const Kernels& kernels) {
            kernels.pool_dots(store_, rule_, *clock_, bags, gradients.data(), out.data());
        });
    }

    BagPlan plan_bags(Ids ids, Ids offsets, Weights weights) const {
        const Bags bags = make_bags(ids, offsets, weights);
        check_count(bags.count);
        const nb::gil_scoped_release release;
        check_inside(bags);
        return {make_plan(bags, store_.rows), bags.count, store_.rows};
    }

    // The distinct ids (m,) of the batch, ascending, and the sums (m, dim) of their gradients,
    // where `pool` has the gradients (bags, dim).
    PerId sum_gradients(const BagPlan& batch, Vectors gradients) const {
        check_fits(batch, gradients);
        return per_distinct_id(batch.plan, [&](float* out) {
            kernels().sum_gradients(batch.plan, store_.dim, gradients.data(), out);
        });
    }

    // The same for `pool_max`.
    PerId pool_max_gradient(Ids ids, Ids offsets, Ids argmax, Vectors gradients) const {
        const Bags bags = make_bags(ids, offsets, std::nullopt);
        check_size(gradients, bags.count * store_.dim, "gradients must hold one vector per bag");
        check_size(argmax, bags.count * store_.dim, "argmax must have the shape of gradients");
        check_count(bags.count);
        Plan plan;
        Buffer<uint32_t> bag_of;
        {
            const nb::gil_scoped_release release;
            check_inside(bags);
            plan = make_plan(bags.ids, bags.n, store_.rows);
            bag_of = bag_of_each(bags);
        }
        return per_distinct_id(plan, [&](float* out) {
            kernels().pool_max_gradient(plan, bag_of.data(), store_.dim, argmax.data(),
                                        gradients.data(), out);
        });
    }

    // One step of the whole table: returns -1, or the position of an id outside the table; then
    // nothing changed.
    int64_t update(Ids ids, Vectors gradients, const Numbers& numbers) {
        const auto n = static_cast<int64_t>(ids.size());
        check_size(gradients, n * store_.dim, "gradients must hold one vector per id");
        check_count(n);
        const nb::gil_scoped_release release;
        const int64_t bad = first_outside(ids.data(), n, store_.rows);
        if (bad < 0) step(make_plan(ids.data(), n, store_.rows), gradients.data(), numbers);
        return bad;
    }

    // The same with gradients (bags, dim) of a batch of bags.
    void update_bags(const BagPlan& batch, Vectors gradients, const Numbers& numbers) {
        check_fits(batch, gradients);
        const nb::gil_scoped_release release;
        step(batch.plan, gradients.data(), numbers);
    }

    // Returns -1, or the position of an id outside the table; then nothing has changed.
    int64_t refresh(Ids ids) {
        const auto n = static_cast<int64_t>(ids.size());
        check_count(n);
        const nb::gil_scoped_release release;
        const int64_t bad = first_outside(ids.data(), n, store_.rows);
        if (bad >= 0) return bad;
        const Plan plan = make_plan(ids.data(), n, store_.rows);
        const std::unique_lock lock(mutex_);
        kernels().refresh(store_, rule_, *clock_, plan);
        return -1;
    }

    void sync() {
        const nb::gil_scoped_release release;
        const std::unique_lock lock(mutex_);
        bring_to_now();
    }

    void slot_values(std::size_t slot, Matrix out) const {
        if (slot >= slots_.size()) throw std::invalid_argument("no such slot");
        if (out.shape(0) != weights_.shape(0) || out.shape(1) != weights_.shape(1))
            throw std::invalid_argument("out must have the table's shape");
        const nb::gil_scoped_release release;
        const std::shared_lock lock(mutex_);
        kernels().slot_values(store_, rule_, *clock_, static_cast<int>(slot), out.data());
    }

    // The clock's past: a row (scale, keep, epsilon factor) per step, and closed coefficients.
    Past past() const {
        const std::shared_lock lock(mutex_);
        const auto& ticks = clock_->ticks();
        const std::vector<double> closed = clock_->closed();
        auto steps = fresh_array<double>(ticks.size() - 1, std::size_t{3});
        for (std::size_t i = 1; i < ticks.size(); ++i) {
            double* row = steps.data() + 3 * (i - 1);
            row[0] = ticks[i].scale, row[1] = ticks[i].keep, row[2] = ticks[i].epsilon_factor;
        }
        auto rest = fresh_array<double>(closed.size());
        std::copy(closed.begin(), closed.end(), rest.data());
        return {std::move(steps), std::move(rest)};
    }

    // Takes up a past: the rows' stamps are of it.
    void restore(GivenPast past) {
        const auto& [steps, closed] = past;
        if (steps.shape(1) != 3) throw std::invalid_argument("a step of the clock is 3 numbers");
        std::vector<Tick> ticks(1, Tick{0, 1, 0});
        for (std::size_t i = 0; i < steps.shape(0); ++i) {
            const double* row = steps.data() + 3 * i;
            ticks.push_back({row[0], row[1], row[2]});
        }
        const std::unique_lock lock(mutex_);
        clock_->restore(ticks, closed.data(), closed.size());
    }

    // Whether the clock's memory is used up, so that a sync is due.
    bool full() const { return clock_->now() >= Clock::kHorizon; }
    bool fresh() const { return store_.fresh; }
    void set_fresh(bool fresh) { store_.fresh = fresh; }

  private:
    void step(const Plan& plan, const float* gradients, const Numbers& numbers) {
        const std::unique_lock lock(mutex_);
        // A clock's epsilon never falls: somebody has set the iteration back.
        if (numbers.epsilon_factor < clock_->epsilon_factor()) bring_to_now();
        Step step;
        step.lr = static_cast<float>(numbers.lr);
        step.keep = static_cast<float>(numbers.keep);
        step.scale = static_cast<float>(numbers.scale);
        step.gradient_scale = static_cast<float>(numbers.gradient_scale);
        step.epsilon = static_cast<float>(rule_.hyper.exact_epsilon * numbers.epsilon_factor);
        step.number = numbers.number;
        step.stamp = clock_->now() + (advances_ ? 1 : 0);
        kernels().update(store_, rule_, *clock_, step, plan, gradients);
        if (advances_) clock_->advance({numbers.scale, numbers.keep, numbers.epsilon_factor});
    }

    void bring_to_now() {
        if (clock_->now() != 0) kernels().sync(store_, rule_, *clock_);
        clock_->restart();
    }

    template <class Array>
    static void check_size(const Array& array, int64_t size, const char* message) {
        if (static_cast<int64_t>(array.size()) != size) throw std::invalid_argument(message);
    }

    static void check_count(int64_t count) {
        if (count >= int64_t{1} << 32)
            throw std::invalid_argument("a batch has at most 2**32 - 1 ids and bags");
    }

    void check_inside(const Bags& bags) const {
        check_count(bags.n);
        if (first_outside(bags.ids, bags.n, store_.rows) >= 0)
            throw std::out_of_range("an id is outside the table");
    }

    void check_fits(const BagPlan& batch, const Vectors& gradients) const {
        if (batch.rows != store_.rows)
            throw std::invalid_argument("the bags were planned for a table of other rows");
        check_size(gradients, batch.bags * store_.dim, "gradients must hold one vector per bag");
    }

    // Calls read(kernels) beside other readers, unless an id is outside: then returns where.
    template <class Read>
    int64_t reading(const Bags& bags, Read&& read) const {
        const nb::gil_scoped_release release;
        const std::shared_lock lock(mutex_);
        const int64_t bad = first_outside(bags.ids, bags.n, store_.rows);
        if (bad < 0) read(kernels());
        return bad;
    }

    // The plan's ids (m,), and the (m, dim) that sum(out) writes for them.
    template <class Sum>
    PerId per_distinct_id(const Plan& plan, Sum&& sum) const {
        const auto distinct = static_cast<std::size_t>(plan.distinct());
        auto ids = fresh_array<int64_t>(distinct);
        auto sums = fresh_array<float>(distinct, static_cast<std::size_t>(store_.dim));
        {
            const nb::gil_scoped_release release;
            std::copy(plan.ids.begin(), plan.ids.end(), ids.data());
            sum(sums.data());
        }
        return {std::move(ids), std::move(sums)};
    }

    mutable std::shared_mutex mutex_;
    Matrix weights_;
    std::vector<Matrix> slots_;
    Bytes states_;
    Store store_{};
    Rule rule_{};
    std::unique_ptr<Clock> clock_ =
        std::make_unique<Clock>(0.0, 1.0, 0, false, 1, std::vector<double>{});
    bool advances_ = false;
};

}  // namespace
}  // namespace rowwise

NB_MODULE(_native, m) {
    using namespace rowwise;
    m.doc() = "rowwise's kernels; use rowwise.Table.";
    // A framework may keep a model, and with it a table, to the very end of the process: no leak.
    // The tests turn the warnings on.
    nb::set_leak_warnings(false);
    m.def("set_leak_warnings", &nb::set_leak_warnings, "warn"_a);

    nb::class_<Rule>(m, "Rule");
    m.def("rule", &make_rule, "family"_a, nb::kw_only(), "momentum"_a = 0.0, "rho"_a = 0.0,
          "beta_1"_a = 0.0, "beta_2"_a = 0.0, "epsilon"_a = 0.0, "learning_rate_power"_a = 0.0,
          "l1"_a = 0.0, "l2"_a = 0.0, "beta"_a = 0.0, "shrink"_a = 1.0, "window"_a = 1);

    nb::class_<BagPlan>(m, "BagPlan");
    nb::class_<Numbers>(m, "Numbers")
        .def(nb::init<int64_t, double, double, double, double, double>(), "number"_a, "lr"_a,
             "keep"_a, "scale"_a, "gradient_scale"_a, "epsilon_factor"_a);

    nb::class_<Rows>(m, "Rows")
        .def(nb::init<Matrix, Bytes>(), "weights"_a, "states"_a)
        .def("follow", &Rows::follow, "rule"_a, "slots"_a, nb::kw_only(), "fresh"_a, "advances"_a,
             "ratio"_a, "growth"_a, "terms"_a, "endless"_a, "window"_a, "slot_decay"_a)
        .def("lookup", &Rows::lookup, "ids"_a, "out"_a)
        .def("pool", &Rows::pool, "ids"_a, "offsets"_a, "weights"_a.none(), "out"_a)
        .def("pool_max", &Rows::pool_max, "ids"_a, "offsets"_a, "out"_a, "argmax"_a)
        .def("pool_dots", &Rows::pool_dots, "ids"_a, "offsets"_a, "gradients"_a, "out"_a)
        .def("plan_bags", &Rows::plan_bags, "ids"_a, "offsets"_a, "weights"_a.none())
        .def("sum_gradients", &Rows::sum_gradients, "bags"_a, "gradients"_a)
        .def("pool_max_gradient", &Rows::pool_max_gradient, "ids"_a, "offsets"_a, "argmax"_a,
             "gradients"_a)
        .def("update", &Rows::update, "ids"_a, "gradients"_a, "numbers"_a)
        .def("update_bags", &Rows::update_bags, "bags"_a, "gradients"_a, "numbers"_a)
        .def("refresh", &Rows::refresh, "ids"_a)
        .def("sync", &Rows::sync)
        .def("slot_values", &Rows::slot_values, "slot"_a, "out"_a)
        .def("past", &Rows::past)
        .def("restore", &Rows::restore, "past"_a)
        .def_prop_ro("full", &Rows::full)
        .def_prop_rw("fresh", &Rows::fresh, &Rows::set_fresh);
    m.attr("TERMS") = kTerms;

    m.def("zeros", &zeros, "bytes"_a);
    m.def("empty", [](std::size_t rows, std::size_t dim) { return fresh_array<float>(rows, dim); },
          "rows"_a, "dim"_a);
    m.def("first_nonfinite", &first_nonfinite, "values"_a);
    m.def("check_offsets", &check_offsets, "offsets"_a, "n"_a);
    m.def("set_num_threads", &set_num_threads, "threads"_a);
    m.def("get_num_threads", &num_threads);
    m.def("kernels", [] { return kernels().name; });
    m.def("select_kernels", &select_kernels, "name"_a);
    bind_vectors(m);
    bind_word2vec(m);
}
