// Tables as compiled programs call them: by key, on the programs' own arrays, without Python.
//
// A program cannot raise an error that says what to do, and its state would be lost. So a call that
// fails writes zeros and records its failure, and every later call writes zeros, until whoever runs
// the program has taken the failures.
//
// The gradient of a table is, to a program, a vector of weights: by how much each backward pass
// counts. A pass gives `kWhole` in a place of its own, and its gradients wait here for the step.
// The last weight is a checksum: each pass adds a share of its own, of which everything linear
// keeps the sum. A step refuses weights that have another, so that nothing which is not linear
// (clipping by value, an optimizer's moments) passes for a gradient, nor does a pass that is
// forgotten. The checksum of gradients that are not finite is NaN, for whoever looks for that.
//
// Programs that nobody watches call a strict table. There a call that fails ends its program with
// an error, and weights are of a size. A strict token ends with its version modulo `kTurns`: the
// difference of two tokens then tells, by a number which no rounding hides, whether it was scaled
// on its way to the one before.
#pragma once
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "lock.hpp"
#include "program_arrays.hpp"
#include "rule.hpp"
#include "step_formula.hpp"
#include "table.hpp"

namespace rowwise {

// What stands in for rows that were never trained.
enum class Untrained : int64_t { zeros, mean, error };

// A call: arguments, the result to be written, and what the program was made with.
struct ProgramCall {
    std::vector<ProgramArray> arguments;
    ProgramArray out;
    int64_t rule = -1;  // of a step; -1: that of the last `use_rule` or step
    double clip = -1;   // of a step: the largest absolute value, or none if negative
    Untrained untrained = Untrained::zeros;  // of `fill_untrained`
    bool raises = false;                     // a failure ends the program, and is not recorded
    std::span<const int64_t> keys;           // of the tables whose failures are asked for
};

// What went wrong. `ids`: the array of ids, for a message that names the id and its position.
struct Failure {
    enum class Kind { ids, step, memory, untrained, value, other };
    Kind kind;
    std::string text;
    double rate = 0;
    int64_t iteration = 0;
    Dtype dtype = Dtype::int64;
    std::vector<int64_t> shape = {};
    std::vector<char> bytes = {};
};

// Thrown where a program calls a table that there is no more.
struct TableIsGone {};

class ProgramTable {
  public:
    static constexpr int64_t kCapacity = 1023;  // gradients that can wait at once
    // The weight of a gradient as it comes. Losses may be scaled by 2^127: processors take floats
    // below 2^-126 for 0. The sum of squares of weights, with which somebody may clip, is finite.
    static constexpr float kWhole = 0x1p60f;
    // A weight of a strict table is at most kWhole times this, and at least kWhole over this.
    static constexpr float kLargestFactor = 0x1p30f;
    static constexpr int64_t kVersions = int64_t{1} << 24;  // a float32 counts no further
    static constexpr int64_t kTurns = 3;                    // see above
    static constexpr int kMethodCount = 15;

    // `path` names the variable in messages. Calls by `lasting_key`, which is that of the table
    // before, reach this one from now on; 0: a new one.
    static std::shared_ptr<ProgramTable> make(std::string path, int64_t lasting_key = 0);
    ~ProgramTable();
    ProgramTable(const ProgramTable&) = delete;
    ProgramTable& operator=(const ProgramTable&) = delete;

    int64_t key() const { return key_; }
    int64_t lasting_key() const { return lasting_key_; }  // for calls that raise

    // Calls table number `key` by the name of a method below.
    static void call(int64_t key, int method, const ProgramCall& call);
    static int method(const std::string& name);  // -1: there is none
    static std::vector<std::string> methods();

    // ------------------------------------------------------ by the owner

    // From now on calls go to `table`, whose writers take turns; or to nobody. Waits for calls that
    // are being made.
    void bind(Table& table, std::shared_ptr<ReentrantLock> turn);
    void bind_rows(int64_t rows);  // for `validate` alone
    void close();
    void set_frozen_row(int64_t row);
    void set_strict(int64_t capacity);  // with the oldest of so many gradients making room

    // Returns the number of a rule, for steps.
    int64_t add_rule(TrainingRule rule, StepFormula formula, bool supports_lazy);
    void use_rule(int64_t rule);  // it is the one that the table has now
    StepFormula formula(int64_t rule) const;
    // The rule that a step has set, where the table had another; -1: none since the last call.
    int64_t pop_changed_rule();

    int64_t version() const;
    bool failed() const { return failed_.load(std::memory_order_acquire); }
    void fail() { failed_.store(true, std::memory_order_release); }  // the owner knows why
    std::vector<Failure> pop_failures();

    // A pass that waits: its place among the weights, and the checksum of it alone, as it comes.
    struct Pass {
        int64_t place;
        float checksum;
    };
    // Keeps gradients (n, dim) of rows ids (n,) as a pass of its own. `order` decides which
    // gradients of an id are summed first, whichever came first.
    Pass push(int64_t order, RowGradients gradients);
    // The gradients that wait, weighted and summed by distinct ids.
    RowGradients summed(std::span<const float> weights);
    int64_t waiting() const;
    void hold(std::vector<int64_t> places);  // gradients that steps leave waiting
    void clear();

    // ------------------------------------------------------ by programs

    // out () bool <- whether none of the tables has failed; the arguments only come first.
    static void no_errors(const ProgramCall& call);

    void validate(const ProgramCall& call);    // ids -> out int32, all of them rows
    void lookup(const ProgramCall& call);      // token, ids -> out (..., dim)
    void lookup_now(const ProgramCall& call);  // ids -> out (..., dim), for whoever has no token
    void lookup_all(const ProgramCall& call);  // token -> out (rows, dim)
    // ids, vectors (..., dim) -> vectors, others in place of those of untrained rows
    void fill_untrained(const ProgramCall& call);
    void pool(const ProgramCall& call);  // token, ids (..., length), weights? -> (..., dim)
    void gradient_of_weights(const ProgramCall& call);  // ids, gradients -> (..., length)
    void push_rows(const ProgramCall& call);            // order, token, ids, gradients -> (size,)
    void push_bags(const ProgramCall& call);   // order, token, ids, gradients, weights? -> (size,)
    void push_dense(const ProgramCall& call);  // order, token, gradient (rows, dim) -> (size,)
    void norm(const ProgramCall& call);        // weights (size,) -> ()
    void finite(const ProgramCall& call);      // weights (size,) -> (): 1, or NaN
    void step(const ProgramCall& call);        // token, weights, iteration, rate, now -> next token
    void discard(const ProgramCall& call);     // token, weights of what waits on -> the same token

  private:
    struct Pending {
        std::pair<int64_t, int64_t> order;
        RowGradients gradients;
        float share;  // of the checksum
    };
    struct KnownRule {
        TrainingRule rule;
        StepFormula formula;
        bool supports_lazy;
    };

    ProgramTable(int64_t key, int64_t lasting_key, std::string path)
        : key_(key), lasting_key_(lasting_key), path_(std::move(path)) {}

    void run(int method, const ProgramCall& call);
    void record(Failure failure);
    [[noreturn]] void raise(const Failure& failure) const;
    void check_version(const ProgramArray& token) const;
    Buffer<int64_t> row_ids(const ProgramArray& ids) const;
    std::vector<float> mean_of_trained();
    Table& table() const;
    Pass keep(int64_t order, RowGradients gradients);
    void push_sums(const ProgramCall& call, const BatchPlan& batch);
    void push_for(const ProgramCall& call, RowGradients gradients, bool finite);
    void make_step(const ProgramCall& call, double rate, int64_t iteration);
    RowGradients weighted(std::span<const float> weights, bool distinct, int64_t* taken = nullptr);
    void put_back(int64_t place, RowGradients rows);
    void check_weights(std::span<const float> weights) const;
    void clear_but(std::span<const float> weights);
    void write_token(const ProgramArray& out) const;

    const int64_t key_, lasting_key_;
    const std::string path_;
    // Shared by calls, alone by whoever changes what they call. A writer's turn comes before it.
    mutable std::shared_mutex open_;
    Table* table_ = nullptr;
    std::shared_ptr<ReentrantLock> turn_;
    int64_t rows_ = 0, frozen_row_ = -1;
    bool strict_ = false;
    int64_t capacity_ = kCapacity;
    // Changed by a step, too, in its writer's turn.
    std::vector<KnownRule> rules_;
    int64_t current_rule_ = -1, rule_version_ = -1;  // the rule that the table had at that version
    int64_t changed_rule_ = -1;

    mutable std::mutex mutex_;  // of all that follows
    std::atomic<bool> failed_ = false;
    std::vector<Failure> failures_;
    std::map<int64_t, Pending> pending_;  // by place
    std::vector<int64_t> held_;
    int64_t pushed_ = 0;       // gradients so far
    std::vector<float> mean_;  // of the trained rows at version `mean_version_` of the table
    int64_t mean_version_ = -1;
};

}  // namespace rowwise
