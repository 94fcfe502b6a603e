// The bindings of tables.
#include "table.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <utility>
#include <variant>

#include "arrays.hpp"
#include "history.hpp"

namespace rowwise {
namespace {

using GivenIds = Array<const int64_t>;
using Gradients = Array<const float>;
using Weights = std::optional<Gradients>;
using Sums = std::pair<NewVector<int64_t>, NewMatrix<float>>;

BagBatch bags_of(const GivenIds& ids, const GivenIds& offsets, const Weights& weights = {}) {
    BagBatch bags{span_of(ids), span_of(offsets), {}};
    if (weights) bags.weights = span_of(*weights);
    return bags;
}

Sums sums_of(RowGradients rows, int64_t dim) {
    const int64_t distinct = rows.ids.size;
    return {array_of(std::move(rows.ids), distinct), array_of(std::move(rows.sums), distinct, dim)};
}

Storage storage_of(const std::string& dtype) {
    if (dtype == "bfloat16") return Storage::bfloat16;
    if (dtype == "float16") return Storage::float16;
    throw std::invalid_argument("dtype='" + dtype + "' is not 'bfloat16' or 'float16'");
}

// A table with the arrays that it lies in.
class ArrayTable {
  public:
    Table& table() { return table_; }

    ArrayTable(Matrix<float> weights, Vector<uint8_t> states)
        : weights_(weights), states_(checked(std::move(states), weights.shape(0))),
          table_(weights.data(), reinterpret_cast<RowState*>(states_.data()),
                 static_cast<int64_t>(weights.shape(0)), static_cast<int64_t>(weights.shape(1))) {}

    ArrayTable(Matrix<uint16_t> weights, Vector<uint8_t> states, const std::string& dtype)
        : weights_(weights), states_(checked(std::move(states), weights.shape(0))),
          table_(weights.data(), storage_of(dtype), reinterpret_cast<RowState*>(states_.data()),
                 static_cast<int64_t>(weights.shape(0)), static_cast<int64_t>(weights.shape(1))) {}

    void set_rule(const Rule& rule, std::vector<Matrix<float>> slots,
                  std::vector<float> slot_starts, bool slots_pristine, bool advances, double ratio,
                  double growth, int terms, bool unbounded, uint32_t horizon,
                  std::vector<double> slot_decay, std::string slot_names) {
        std::vector<float*> data;
        for (const Matrix<float>& slot : slots) {
            const int64_t slot_dim = has_row_slots(rule.family) ? 1 : table_.dim();
            if (static_cast<int64_t>(slot.shape(0)) != table_.rows() ||
                static_cast<int64_t>(slot.shape(1)) != slot_dim)
                throw std::invalid_argument(
                    "a slot must have the table's rows, of dim numbers or one");
            data.push_back(slot.data());
        }
        const LagParams lag{ratio, growth, terms, unbounded, horizon, std::move(slot_decay)};
        {
            const WithoutGil unlocked;
            table_.set_rule({rule, lag, std::move(slot_starts), advances, std::move(slot_names)},
                            data, slots_pristine);
        }
        slots_ = std::move(slots);  // nobody reads the old ones any more
    }

    int64_t gather(const GivenIds& ids, const Array<float>& out) const {
        const WithoutGil unlocked;
        return table_.gather(span_of(ids), span_of(out));
    }

    int64_t gather_bags(const GivenIds& ids, const GivenIds& offsets, const Weights& weights,
                        const Array<float>& out) const {
        const WithoutGil unlocked;
        return table_.gather_bags(bags_of(ids, offsets, weights), span_of(out));
    }

    int64_t gather_bags_max(const GivenIds& ids, const GivenIds& offsets, const Array<float>& out,
                            const Array<int64_t>& argmax) const {
        const WithoutGil unlocked;
        return table_.gather_bags_max(bags_of(ids, offsets), span_of(out), span_of(argmax));
    }

    int64_t bag_weight_gradient(const GivenIds& ids, const GivenIds& offsets,
                                const Gradients& gradients, const Array<float>& out) const {
        const WithoutGil unlocked;
        return table_.bag_weight_gradient(bags_of(ids, offsets), span_of(gradients), span_of(out));
    }

    BatchPlan plan_bags(const GivenIds& ids, const GivenIds& offsets,
                        const Weights& weights) const {
        const WithoutGil unlocked;
        return table_.plan_bags(bags_of(ids, offsets, weights));
    }

    Sums sum_gradients(const BatchPlan& bags, const Gradients& gradients) const {
        RowGradients rows;
        {
            const WithoutGil unlocked;
            rows = table_.sum_gradients(bags, span_of(gradients));
        }
        return sums_of(std::move(rows), table_.dim());
    }

    Sums gather_bags_max_gradient(const GivenIds& ids, const GivenIds& offsets,
                                  const GivenIds& argmax, const Gradients& gradients) const {
        RowGradients rows;
        {
            const WithoutGil unlocked;
            rows = table_.gather_bags_max_gradient(bags_of(ids, offsets), span_of(argmax),
                                                   span_of(gradients));
        }
        return sums_of(std::move(rows), table_.dim());
    }

    int64_t update(const GivenIds& ids, const Gradients& gradients, const StepParams& params) {
        const WithoutGil unlocked;
        return table_.update(span_of(ids), span_of(gradients), params);
    }

    void update_bags(const BatchPlan& bags, const Gradients& gradients, const StepParams& params) {
        const WithoutGil unlocked;
        table_.update(bags, span_of(gradients), params);
    }

    int64_t materialize(const std::optional<GivenIds>& ids) {
        const WithoutGil unlocked;
        if (ids) return table_.materialize(span_of(*ids));
        table_.materialize();
        return -1;
    }

    int64_t renew(const GivenIds& ids, const Gradients& starts) {
        const WithoutGil unlocked;
        return table_.renew(span_of(ids), span_of(starts));
    }

    void read_slot(std::size_t slot, const Matrix<float>& out) const {
        const WithoutGil unlocked;
        table_.read_slot(slot, span_of(out));
    }

    History step_history() const {
        StepHistory history;
        {
            const WithoutGil unlocked;
            history = table_.history();
        }
        return arrays_of(history);
    }

    void restore(const GivenHistory& given) {
        const StepHistory history = history_of(given);
        const WithoutGil unlocked;
        table_.restore(history);
    }

    bool slots_pristine() const {
        const WithoutGil unlocked;
        return table_.slots_pristine();
    }
    void set_slots_pristine(bool pristine) {
        const WithoutGil unlocked;
        table_.set_slots_pristine(pristine);
    }

  private:
    static Vector<uint8_t> checked(Vector<uint8_t> states, std::size_t rows) {
        if (states.size() != rows * sizeof(RowState))
            throw std::invalid_argument("states must hold one row state per row");
        return states;
    }

    std::variant<Matrix<float>, Matrix<uint16_t>> weights_;
    Vector<uint8_t> states_;
    std::vector<Matrix<float>> slots_;
    Table table_;
};

}  // namespace

Table& table_of(nb::handle object) { return nb::cast<ArrayTable&>(object).table(); }

void bind_table(nb::module_& m) {
    using namespace nb::literals;

    nb::class_<Rule>(m, "Rule", "The arithmetic of a rule, with its hyperparameters.");
    m.def(
        "rule",
        [](const std::string& family, double momentum, double rho, double beta_1, double beta_2,
           double epsilon, double learning_rate_power, double l1, double l2, double beta,
           double shrink, uint32_t horizon) {
            return make_rule(family, {momentum, rho, beta_1, beta_2, epsilon, learning_rate_power,
                                      l1, l2, beta, shrink, horizon});
        },
        "family"_a, nb::kw_only(), "momentum"_a = 0.0, "rho"_a = 0.0, "beta_1"_a = 0.0,
        "beta_2"_a = 0.0, "epsilon"_a = 0.0, "learning_rate_power"_a = 0.0, "l1"_a = 0.0,
        "l2"_a = 0.0, "beta"_a = 0.0, "shrink"_a = 1.0, "horizon"_a = 1,
        "Return the rule of a family.\n\n"
        "A missed step multiplies the denominator of a movement by `shrink`; `horizon` missed\n"
        "steps matter to the movement.");

    nb::class_<BatchPlan>(
        m, "BatchPlan", "A batch of bags, sorted: its distinct ids and where their gradients lie.");
    nb::class_<StepParams>(m, "StepParams", "The numbers of one step.")
        .def(nb::init<int64_t, double, double, double, double, double>(), "iteration"_a,
             "learning_rate"_a, "decay_factor"_a, "scale"_a, "gradient_scale"_a,
             "epsilon_factor"_a);

    nb::class_<ArrayTable>(
        m, "Table",
        "The rows of a table, their optimizer state and clock, in arrays of the caller's.\n\n"
        "Readers run beside each other, a writer alone. Methods that return an int return -1, or\n"
        "the flat position of an id outside the table; then nothing was read or written.")
        .def(nb::init<Matrix<float>, Vector<uint8_t>>(), "weights"_a, "states"_a,
             "Lay a table over weights (rows, dim) and the bytes of (rows,) row states.")
        .def(nb::init<Matrix<uint16_t>, Vector<uint8_t>, const std::string&>(), "weights"_a,
             "states"_a, "dtype"_a,
             "Lay a table over weights (rows, dim) stored as dtype, \"bfloat16\" or \"float16\".")
        .def(
            "round_at_random",
            [](ArrayTable& own, uint64_t seed) { own.table().round_at_random(seed); }, "seed"_a,
            "Round weights of 16 bits at random from now on, and not to nearest.")
        .def("set_rule", &ArrayTable::set_rule, "rule"_a, "slots"_a, nb::kw_only(), "slot_starts"_a,
             "slots_pristine"_a, "advances"_a, "ratio"_a, "growth"_a, "terms"_a, "unbounded"_a,
             "horizon"_a, "slot_decay"_a, "slot_names"_a = "",
             "Update rows by `rule` from now on; every row must be up to date.\n\n"
             "slots are (rows, dim) each, or (rows, 1) where the rule keeps a number a row.\n"
             "slots_pristine: slots of rows without an update hold slot_starts. advances: whether\n"
             "a step changes rows that it does not touch; the rest says how, see native/clock.hpp.")
        .def("gather", &ArrayTable::gather, "ids"_a, "out"_a,
             "Write the present vectors (n, dim) of rows ids (n,) to out.")
        .def("gather_bags", &ArrayTable::gather_bags, "ids"_a, "offsets"_a, "weights"_a.none(),
             "out"_a,
             "Write each bag's weighted sum (bags, dim) to out; 0 where it is empty.\n\n"
             "Bag b holds ids[offsets[b]:offsets[b + 1]].")
        .def("gather_bags_max", &ArrayTable::gather_bags_max, "ids"_a, "offsets"_a, "out"_a,
             "argmax"_a,
             "Write the largest of each bag's values (bags, dim) to out, and the first position\n"
             "that has it to argmax; 0 and -1 where the bag is empty.")
        .def("bag_weight_gradient", &ArrayTable::bag_weight_gradient, "ids"_a, "offsets"_a,
             "gradients"_a, "out"_a,
             "Write the gradients (n,) of the bags' weights to out, from gradients (bags, dim).")
        .def("plan_bags", &ArrayTable::plan_bags, "ids"_a, "offsets"_a, "weights"_a.none(),
             "Sort a batch of bags for `sum_gradients` or `update_bags`.")
        .def("sum_gradients", &ArrayTable::sum_gradients, "bags"_a, "gradients"_a,
             "Return the distinct ids (m,), ascending, and their summed gradients (m, dim), from\n"
             "the gradients (bags, dim) of `gather_bags`.")
        .def("gather_bags_max_gradient", &ArrayTable::gather_bags_max_gradient, "ids"_a,
             "offsets"_a, "argmax"_a, "gradients"_a,
             "Return what `sum_gradients` does, for `gather_bags_max`.")
        .def("update", &ArrayTable::update, "ids"_a, "gradients"_a, "params"_a,
             "Make one step of the whole table with gradients (n, dim) of rows ids (n,).")
        .def("update_bags", &ArrayTable::update_bags, "bags"_a, "gradients"_a, "params"_a,
             "Make one step of the whole table with gradients (bags, dim).")
        .def("materialize", &ArrayTable::materialize, "ids"_a = nb::none(),
             "Bring rows ids (n,), or all of them, up to date in place.")
        .def("renew", &ArrayTable::renew, "ids"_a, "starts"_a,
             "Start rows ids (n,) anew with weights starts (n, dim), fresh slots and no updates.")
        .def("read_slot", &ArrayTable::read_slot, "slot"_a, "out"_a,
             "Write the present values of a slot to out, of its shape.")
        .def("step_history", &ArrayTable::step_history,
             "Return the clock's steps (steps, 3): scale, decay factor, epsilon factor; and its\n"
             "closed coefficients (m,).")
        .def("restore", &ArrayTable::restore, "history"_a,
             "Take up what `step_history` gave; the rows' last steps are of it.")
        .def_prop_rw(
            "steps", [](ArrayTable& own) { return own.table().steps.load(); },
            [](ArrayTable& own, int64_t steps) { own.table().steps = steps; },
            "Updates so far. A step counts itself: whatever interrupts Python, both have happened\n"
            "or neither.")
        .def_prop_rw(
            "version", [](ArrayTable& own) { return own.table().version.load(); },
            [](ArrayTable& own, int64_t version) { own.table().version = version; },
            "Raised by every writer once it has written.")
        .def_prop_ro(
            "clocks", [](ArrayTable& own) { return own.table().clocks.load(); },
            "How often all rows were brought up to date, with a new clock.")
        .def_prop_rw("slots_pristine", &ArrayTable::slots_pristine, &ArrayTable::set_slots_pristine,
                     "Whether slots of rows without an update hold what they start with.");
    m.def(
        "widen",
        [](const Array<const uint16_t>& stored, const std::string& dtype, const Array<float>& out) {
            if (stored.size() != out.size()) throw std::invalid_argument("out has another size");
            kernels().widen(storage_of(dtype), stored.data(), static_cast<int64_t>(stored.size()),
                            out.data());
        },
        "stored"_a, "dtype"_a, "out"_a, "Write numbers that are stored as dtype to out, float32.");
    m.def(
        "narrow",
        [](const Array<const float>& values, const std::string& dtype, const Array<uint16_t>& out) {
            if (values.size() != out.size()) throw std::invalid_argument("out has another size");
            kernels().narrow(storage_of(dtype), values.data(), static_cast<int64_t>(values.size()),
                             out.data());
        },
        "values"_a, "dtype"_a, "out"_a,
        "Write values float32, rounded to nearest, ties to even, to out, stored as dtype.");
    m.attr("TERMS") = kTerms;
    m.attr("MOST_STEPS") = Clock::kMostSteps;
}

}  // namespace rowwise
