// The table: the rows of one embedding with their optimizer state, rule and clock, in memory that
// its owner provides. Plain C++; the bindings and the native tests use the same class.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "clock.hpp"
#include "kernels.hpp"
#include "lock.hpp"
#include "plain.hpp"
#include "plan.hpp"
#include "rule.hpp"

namespace rowwise {

using Ids = std::span<const int64_t>;
using Floats = std::span<const float>;

// One step, as the caller gives it.
struct StepParams {
    int64_t iteration;
    double learning_rate, decay_factor, scale, gradient_scale, epsilon_factor;

    StepRecord record() const { return {scale, decay_factor, epsilon_factor}; }
    // The step as kernels take it; the clock says `last_step` after it.
    Step rounded(const Rule& rule, uint32_t last_step) const;
};

// A batch of bags as a caller gives it: bag b holds the ids from offsets[b] to offsets[b + 1].
struct BagBatch {
    Ids ids, offsets;
    std::optional<Floats> weights;  // (n,); without: all are 1
};

// The plan of a batch, with what it was made for.
struct BatchPlan {
    Plan plan;
    int64_t gradients, rows;
};

// Distinct ids (m,), ascending, and the sums of their gradients (m, dim).
struct RowGradients {
    Buffer<int64_t> ids;
    Buffer<float> sums;
};

// All methods may be called by any thread: readers run beside each other, writers alone. Batches
// may even change meanwhile: ids and offsets are copied before they are checked and used. Arrays of
// another size than a comment says, offsets that do not ascend and too large a batch throw
// std::invalid_argument. Methods that return int64_t return -1, or the position of an id that
// is outside the table; then nothing was read or written.
class Table {
  public:
    // weights (rows, dim), states (rows,). The memory stays its owner's.
    Table(float* weights, RowState* states, int64_t rows, int64_t dim);
    // The same with weights that are stored in 16 bits, and rounded to them to nearest.
    Table(uint16_t* weights, Storage storage, RowState* states, int64_t rows, int64_t dim);

    // Counted where it is done: whatever interrupts a caller, both have happened or neither.
    std::atomic<int64_t> steps = 0;    // updates so far
    std::atomic<int64_t> clocks = 0;   // how often `materialize` brought all rows up to date
    std::atomic<int64_t> version = 0;  // raised by whoever has written, `update` below included

    Storage storage() const { return view_.storage; }
    int64_t rows() const { return view_.rows; }
    int64_t dim() const { return view_.dim; }

    // Rounds weights of 16 bits at random from now on, with numbers that depend on the seed, the
    // row, the column and the updates so far.
    void round_at_random(uint64_t seed);

    // Every row must be up to date. slots: (rows, dim) each, or (rows, 1) where the rule's family
    // `has_row_slots`. slots_pristine: slots of rows without an update hold what they start with.
    void set_rule(const TrainingRule& rule, const std::vector<float*>& slots, bool slots_pristine);

    // The same slots, with their values, under another rule. Throws std::invalid_argument if the
    // rule has others. Brings every row up to date.
    void set_hyperparameters(const TrainingRule& rule);
    int64_t rule_version() const { return rule_version_; }  // raised by every change of the rule

    // out (n, dim) <- the present values of rows ids (n,).
    int64_t gather(Ids ids, std::span<float> out) const;
    // out (bags, dim) <- each bag's weighted sum; 0 where it is empty.
    int64_t gather_bags(const BagBatch& bags, std::span<float> out) const;
    // out (bags, dim) <- the largest of each bag's values, argmax (bags, dim) <- the first position
    // that has it; 0 and -1 where the bag is empty. A NaN is the largest.
    int64_t gather_bags_max(const BagBatch& bags, std::span<float> out,
                            std::span<int64_t> argmax) const;
    // out (n,) <- the gradients of the bags' weights, from gradients (bags, dim).
    int64_t bag_weight_gradient(const BagBatch& bags, Floats gradients, std::span<float> out) const;
    // The positions of ids (n,) whose rows were neither updated nor marked as trained. Throws
    // std::out_of_range for an id outside the table.
    std::vector<int64_t> untrained(Ids ids) const;
    // The mean (dim,) of all other rows' present values, summed in float64; empty: there is none.
    std::vector<float> mean_of_trained() const;
    // out, of a slot's shape <- its present values.
    void read_slot(std::size_t slot, std::span<float> out) const;

    // The plan of gradients (n, dim), one per id, or (bags, dim), one per bag. Throw
    // std::out_of_range for an id outside the table.
    BatchPlan plan(Ids ids) const;
    BatchPlan plan_bags(const BagBatch& bags) const;
    // Each distinct id's gradients summed, where `gather_bags` has the gradients (bags, dim), and
    // whether all sums are finite.
    RowGradients sum_gradients(const BatchPlan& batch, Floats gradients,
                               bool* finite = nullptr) const;
    // The same for `gather_bags_max`. Throws std::out_of_range for an id outside the table.
    RowGradients gather_bags_max_gradient(const BagBatch& bags, std::span<const int64_t> argmax,
                                          Floats gradients) const;

    // One step of the whole table with gradients (n, dim), one per id; or those of a plan. Brings
    // all rows up to date where the clock's memory is used up, or a missed step could not be made
    // up for.
    int64_t update(Ids ids, Floats gradients, const StepParams& params);
    void update(const BatchPlan& batch, Floats gradients, const StepParams& params);
    // The same with gradients of ids that may repeat. A frozen row, if not -1, has no gradient; it
    // stays as it is, to the bit, and uncounted.
    void update(const RowGradients& rows, const StepParams& params, int64_t frozen_row);

    // Brings rows up to date in place; all of them without ids.
    void materialize();
    int64_t materialize(Ids ids);

    // Starts rows anew: weights <- starts (n, dim), slots <- what they start with, no updates.
    int64_t renew(Ids ids, Floats starts);

    // The clock's steps, and the same steps taken up again: the rows' last steps are of these.
    StepHistory history() const;
    void restore(const StepHistory& history);

    bool slots_pristine() const;
    void set_slots_pristine(bool pristine);

  private:
    void step(const Plan& plan, Floats gradients, const StepParams& params,
              int64_t frozen_row = -1);
    void take_rule(const TrainingRule& rule, std::unique_ptr<Clock> clock);
    void bring_up_to_date();
    void set_weights(int64_t id, const float* values);
    TableView view() const;
    Floats apart(Floats values, Buffer<float>& copy) const;
    template <class Read>
    int64_t read(const BagBatch& bags, Read&& read) const;

    mutable ReadWriteLock lock_;
    TableView view_{};
    std::size_t slots_ = 0;
    Rule rule_{};
    std::unique_ptr<Clock> clock_;
    std::vector<float> slot_starts_;
    std::string slot_names_;
    bool advances_ = false;
    std::atomic<int64_t> rule_version_ = 0;
};

}  // namespace rowwise
