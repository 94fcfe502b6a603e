// The bindings of tables as programs call them.
#include "../programs.hpp"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <chrono>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "arrays.hpp"
#include "programs.hpp"

namespace rowwise {
namespace {

constexpr std::array kDtypes = {
    std::pair{Dtype::boolean, "bool"},      std::pair{Dtype::int8, "int8"},
    std::pair{Dtype::int16, "int16"},       std::pair{Dtype::int32, "int32"},
    std::pair{Dtype::int64, "int64"},       std::pair{Dtype::uint8, "uint8"},
    std::pair{Dtype::uint16, "uint16"},     std::pair{Dtype::uint32, "uint32"},
    std::pair{Dtype::uint64, "uint64"},     std::pair{Dtype::float16, "float16"},
    std::pair{Dtype::bfloat16, "bfloat16"}, std::pair{Dtype::float32, "float32"},
    std::pair{Dtype::float64, "float64"},
};

Dtype dtype_of(const std::string& given) {
    for (const auto& [dtype, name] : kDtypes)
        if (given == name) return dtype;
    throw std::invalid_argument("an array of dtype " + given + ", which tables do not take");
}

std::string name_of(Dtype wanted) {
    for (const auto& [dtype, name] : kDtypes)
        if (dtype == wanted) return name;
    return "";
}

// An array as Python describes it: where its numbers lie, the name of its dtype, its shape.
using Described = std::tuple<std::uintptr_t, std::string, std::vector<int64_t>>;

ProgramArray array_of(const Described& array) {
    const auto& [address, dtype, shape] = array;
    return {dtype_of(dtype), reinterpret_cast<void*>(address), shape};
}

// A table that programs call, with what must outlive the calls.
class Program {
  public:
    Program(std::string path, int64_t lasting_key)
        : own_(ProgramTable::make(std::move(path), lasting_key)) {}
    Program(const Program&) = delete;
    Program& operator=(const Program&) = delete;
    ~Program() {
        const WithoutGil unlocked;  // for calls that are being made
        own_->close();
    }

    ProgramTable& operator*() { return *own_; }
    ProgramTable* operator->() { return own_.get(); }

    void bind(nb::object table, std::shared_ptr<ReentrantLock> turn) {
        Table& native = table_of(table);
        {
            const WithoutGil unlocked;
            own_->bind(native, std::move(turn));
        }
        table_ = std::move(table);  // nobody calls the one before any more
    }

  private:
    std::shared_ptr<ProgramTable> own_;
    nb::object table_;
};

StepFormula::Kind kind_of(const std::string& name) {
    using Kind = StepFormula::Kind;
    if (name == "rate") return Kind::rate;
    if (name == "adam") return Kind::adam;
    if (name == "adam_hat") return Kind::adam_hat;
    if (name == "adamax") return Kind::adamax;
    if (name == "nadam") return Kind::nadam;
    if (name != "constant") throw std::invalid_argument("no formula of a step is called " + name);
    return Kind::constant;
}

using Described_failure = std::tuple<std::string, std::string, double, int64_t, std::string,
                                     std::vector<int64_t>, nb::bytes>;

std::vector<Described_failure> pop_failures(Program& program) {
    constexpr std::array kKinds = {"ids", "step", "memory", "untrained", "value", "other"};
    std::vector<Described_failure> described;
    for (const Failure& failure : program->pop_failures())
        described.emplace_back(kKinds.at(static_cast<std::size_t>(failure.kind)), failure.text,
                               failure.rate, failure.iteration, name_of(failure.dtype),
                               failure.shape,
                               nb::bytes(failure.bytes.data(), failure.bytes.size()));
    return described;
}

void call(int64_t key, const std::string& method, const Described& out,
          const std::vector<Described>& arguments, int64_t rule, double clip, int64_t untrained,
          bool raises, const std::vector<int64_t>& keys) {
    ProgramCall call{{},     array_of(out), rule, clip, static_cast<Untrained>(untrained),
                     raises, keys};
    for (const Described& argument : arguments) call.arguments.push_back(array_of(argument));
    const int number = ProgramTable::method(method);
    if (number < 0) throw std::invalid_argument("programs call no " + method);
    const WithoutGil unlocked;
    try {
        ProgramTable::call(key, number, call);
    } catch (const TableIsGone&) {
        throw std::runtime_error("the table that this program calls is gone");
    }
}

// Waits without the GIL, and looks for interruptions (Ctrl-C) now and then.
bool acquire(ReentrantLock& lock, double timeout) {
    using Clock = std::chrono::steady_clock;
    constexpr std::chrono::milliseconds kPatience(20);
    const auto end = Clock::now() + std::chrono::duration<double>(timeout);
    for (;;) {
        bool got;
        {
            const nb::gil_scoped_release unlocked;
            got = lock.try_lock_for(kPatience);
        }
        if (got) return true;
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
        if (timeout >= 0 && Clock::now() >= end) return false;
    }
}

using Sums = std::pair<NewVector<int64_t>, NewMatrix<float>>;

Sums summed(Program& program, const Vector<const float>& weights, int64_t dim) {
    RowGradients rows;
    {
        const WithoutGil unlocked;
        rows = program->summed(span_of(weights));
    }
    const int64_t distinct = rows.ids.size;
    return {array_of(std::move(rows.ids), distinct), array_of(std::move(rows.sums), distinct, dim)};
}

std::pair<int64_t, float> push(Program& program, int64_t order, const Vector<const int64_t>& ids,
                               const Matrix<const float>& gradients) {
    if (ids.shape(0) != gradients.shape(0))
        throw std::invalid_argument("gradients must hold one vector per id");
    RowGradients rows{Buffer<int64_t>(static_cast<int64_t>(ids.size())),
                      Buffer<float>(static_cast<int64_t>(gradients.size()))};
    std::copy(ids.data(), ids.data() + ids.size(), rows.ids.begin());
    std::copy(gradients.data(), gradients.data() + gradients.size(), rows.sums.begin());
    const WithoutGil unlocked;
    const ProgramTable::Pass pass = program->push(order, std::move(rows));
    return {pass.place, pass.checksum};
}

nb::dict handlers() {
    nb::dict all;
#ifdef ROWWISE_XLA
    const std::vector<std::string> names = ProgramTable::methods();
    const std::vector<void*> functions = xla_handlers();
    for (std::size_t i = 0; i < names.size(); ++i)
        all[names[i].c_str()] = nb::capsule(functions[i], static_cast<const char*>(nullptr));
#endif
    return all;
}

}  // namespace

void bind_programs(nb::module_& m) {
    using namespace nb::literals;

    nb::class_<ReentrantLock>(m, "ReentrantLock",
                              "A lock that a thread may take several times, and native code too.",
                              nb::is_weak_referenceable())
        .def(nb::init<>())
        .def("acquire", &acquire, "timeout"_a = -1.0,
             "Wait for the lock, so many seconds if not below 0; return whether it was got.")
        .def("release", &ReentrantLock::unlock, "Let the next one in.")
        .def("__enter__", [](ReentrantLock& lock) { acquire(lock, -1); })
        .def(
            "__exit__", [](ReentrantLock& lock, const nb::args&) { lock.unlock(); },
            nb::sig("def __exit__(self, *exception: object) -> None"));

    nb::class_<Program>(
        m, "Program",
        "A table as compiled programs call it, by its key.\n\n"
        "Failures wait here for whoever runs the programs, and so do gradients for\n"
        "the step that applies them. See native/programs.hpp.",
        nb::is_weak_referenceable())
        .def(
            nb::init<std::string, int64_t>(), "path"_a, "lasting_key"_a = 0,
            "Begin without a table; path names it in messages. Programs that call by lasting_key,\n"
            "which is that of the Program before, call this one from now on.")
        .def_prop_ro(
            "key", [](Program& own) { return own->key(); }, "The key by which programs call it.")
        .def_prop_ro(
            "lasting_key", [](Program& own) { return own->lasting_key(); },
            "The key by which programs call it, and then the next Program made with that key.")
        .def("bind", &Program::bind, "table"_a, "turn"_a,
             "Call `table` from now on, whose writers take turns.")
        .def(
            "bind_rows", [](Program& own, int64_t rows) { own->bind_rows(rows); }, "rows"_a,
            "Validate ids of so many rows; there is no table.")
        .def(
            "freeze_row", [](Program& own, int64_t row) { own->set_frozen_row(row); }, "row"_a,
            "Let steps leave a row as it is; -1: none.")
        .def(
            "be_strict", [](Program& own, int64_t capacity) { own->set_strict(capacity); },
            "capacity"_a,
            "End programs whose calls fail, and check the sums of weights of gradients, of which\n"
            "so many can wait.")
        .def(
            "add_rule",
            [](Program& own, const Rule& rule, std::vector<float> slot_starts, bool advances,
               double ratio, double growth, int terms, bool unbounded, uint32_t horizon,
               std::vector<double> slot_decay, std::string slot_names, const std::string& kind,
               double scale, double gradient_scale, double epsilon_factor, double beta_1,
               double beta_2, double weight_decay, double momentum_decay, bool divides_by_rate,
               bool supports_lazy) {
                const LagParams lag{ratio,     growth,  terms,
                                    unbounded, horizon, std::move(slot_decay)};
                const StepFormula formula{kind_of(kind),  scale,          gradient_scale,
                                          epsilon_factor, beta_1,         beta_2,
                                          weight_decay,   momentum_decay, divides_by_rate};
                return own->add_rule(
                    {rule, lag, std::move(slot_starts), advances, std::move(slot_names)}, formula,
                    supports_lazy);
            },
            "rule"_a, nb::kw_only(), "slot_starts"_a, "advances"_a, "ratio"_a, "growth"_a,
            "terms"_a, "unbounded"_a, "horizon"_a, "slot_decay"_a, "slot_names"_a, "kind"_a,
            "scale"_a, "gradient_scale"_a, "epsilon_factor"_a, "beta_1"_a, "beta_2"_a,
            "weight_decay"_a, "momentum_decay"_a, "divides_by_rate"_a, "supports_lazy"_a,
            "Return the number of a rule, for steps: as `Table.set_rule` takes it, with the "
            "formula\n"
            "of a step's numbers, see native/step_formula.hpp.")
        .def(
            "use_rule", [](Program& own, int64_t rule) { own->use_rule(rule); }, "rule"_a,
            "Record that the table has this rule now.")
        .def(
            "pop_changed_rule", [](Program& own) { return own->pop_changed_rule(); },
            "Return the rule that a step has set since the last call, or -1.")
        .def(
            "step_params",
            [](Program& own, int64_t rule, double rate, int64_t iteration) {
                const StepParams step = own->formula(rule).at(rate, iteration);
                return std::tuple{step.learning_rate, step.decay_factor, step.scale,
                                  step.gradient_scale, step.epsilon_factor};
            },
            "rule"_a, "learning_rate"_a, "iteration"_a,
            "Return what `Rule.step_params` does, by the rule's formula.")
        .def_prop_ro(
            "version", [](Program& own) { return own->version(); },
            "The table's version, in the whole numbers of a float32.")
        .def_prop_ro(
            "failed", [](Program& own) { return own->failed(); },
            "Whether a call has failed, or `fail` was called.")
        .def(
            "fail", [](Program& own) { own->fail(); }, "Let calls write zeros, as after a failure.")
        .def("pop_failures", &pop_failures,
             "Return the failures and forget them: kind, text, rate, iteration, and the array of "
             "ids\n"
             "as the name of its dtype, its shape and its bytes.")
        .def("push", &push, "order"_a, "ids"_a, "gradients"_a,
             "Keep gradients (n, dim) of distinct rows ids (n,); return their place, and the last\n"
             "weight beside them alone, as they came.")
        .def("summed", &summed, "weights"_a, "dim"_a,
             "Return the gradients that wait, weighted by (size,): ids (m,), sums (m, dim).")
        .def_prop_ro(
            "waiting", [](Program& own) { return own->waiting(); }, "How many gradients wait.")
        .def(
            "hold", [](Program& own, std::vector<int64_t> places) { own->hold(std::move(places)); },
            "places"_a, "Leave the gradients at these places waiting, after a step too.")
        .def("clear", [](Program& own) { own->clear(); }, "Drop all gradients that wait.");

    m.def("call_program", &call, "key"_a, "method"_a, "out"_a, "arguments"_a, nb::kw_only(),
          "rule"_a = -1, "clip"_a = -1.0, "untrained"_a = 0, "raises"_a = false,
          "keys"_a = std::vector<int64_t>{},
          "Call a program's table as the program would: arrays are (address, dtype, shape).");
    m.def("xla_handlers", &handlers, nb::sig("def xla_handlers() -> dict[str, Any]"),
          "Return XLA's handlers of such calls, by method; none where the extension was built\n"
          "without XLA's header.");
    m.attr("PROGRAM_CAPACITY") = ProgramTable::kCapacity;
    m.attr("PROGRAM_WHOLE") = ProgramTable::kWhole;
    m.attr("PROGRAM_TURNS") = ProgramTable::kTurns;
}

}  // namespace rowwise
