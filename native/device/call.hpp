// The arguments of the device's kernels: one plain struct, by value.
#pragma once
#include "lagged.hpp"
#include "plain.hpp"

namespace rowwise {

constexpr int64_t kBlockSum = 64;  // gradients of one id that are summed before the next such sum
constexpr int kPartials = 16;      // partial sums of a product of two rows
constexpr int64_t kStrided = 1 << 14;  // threads that share out all rows, one after the other

// The first id outside the table that a kernel met. From then on kernels write nothing to the
// table, until the host has raised the error and cleared this.
struct Trouble {
    uint64_t key;   // number of the call << 32 | position in its batch; kNoTrouble: none
    int64_t id;     // what stood there
    int64_t steps;  // the table's steps before that call
    uint32_t now;   // the clock's reading before that call
    // Steps that were not made, as their gradients were not finite, since the last error; only the
    // last kernel of a step writes this.
    uint32_t skipped;
};
constexpr uint64_t kNoTrouble = ~uint64_t{0};

// Steps in a row of which the host does not know yet whether they are made.
constexpr uint32_t kOpenSteps = 8;

// A step, and as the clock remembers it.
struct StepChoice {
    Step step;
    StepRecord record;
};

struct DeviceCall {
    TableView table;
    ClockView clock;
    Hyperparameters hyper;
    // choices[k]: the step, if k more than the host knows of were skipped before it. The clock's
    // reading and `steps` are here as if there were none.
    StepChoice choices[kOpenSteps];
    uint32_t known_skipped;  // that the host knows of
    uint32_t turn;           // of the step among those that may be skipped
    int64_t steps;           // of the table, before this call
    uint64_t key;            // number of the call << 32
    Trouble* trouble;
    volatile uint32_t* alarm;  // in the host's memory, 1 once there is trouble
    volatile uint32_t* made;   // (kOpenSteps,) there, by turn: 2 turn, or 2 turn + 1 if skipped
    const float* found_inf;    // (1,) not 0: the step is skipped; null: it is made
    const float* others;       // (1,) NaN: the gradient of all other rows; null or a number: 0

    int64_t n;               // ids of the batch
    const int64_t* batch;    // (n,) ids in the batch's order
    const int64_t* ids;      // (n,) the same ascending; null: every row of the table
    const int64_t* sources;  // (n,) which gradient each of `ids` gets; -1: none
    const float* weights;    // (n,) times what, or null: all are 1
    const float* gradients;  // (n, dim) or (bags, dim)
    int64_t bags;
    const int64_t* offsets;  // (bags + 1,) in `batch`
    float* out;
    int64_t* argmax;  // (bags, dim)
    float* blocks;    // (2 (n / kBlockSum + 1), dim) sums of the blocks of long runs
    float* partials;  // (n, kPartials)
    int64_t skipped_row;
    int slot;
    bool advances;  // whether the clock takes steps
};
// The host's compiler and the device's lay it out alike.
static_assert(sizeof(DeviceCall) == 896 && sizeof(LaggedUpdate) == 64);
static_assert(sizeof(HorizonSum) == 88 && sizeof(RunningProduct) == 16 && sizeof(Trouble) == 32);

// Every kernel: X(name, class in kernels.hpp), those whose lanes share out the numbers of a row and
// the others.
#define ROWWISE_ROW_KERNELS(X)        \
    X(gather, Gather)                 \
    X(gather_bags, GatherBags)        \
    X(gather_bags_max, GatherBagsMax) \
    X(read_slot, ReadSlot)            \
    X(spread_max, SpreadMax)          \
    X(sum_blocks, SumBlocks)          \
    X(sum_runs, SumRuns)              \
    X(update, Update)                 \
    X(materialize, Materialize)       \
    X(write_rows, WriteRows)
#define ROWWISE_OTHER_KERNELS(X)              \
    X(bag_weight_partials, BagWeightPartials) \
    X(sum_partials, SumPartials)              \
    X(square_partials, SquarePartials)        \
    X(finish, Finish)                         \
    X(update_others, UpdateOthers)            \
    X(advance, Advance)                       \
    X(count_skipped, CountSkipped)            \
    X(record_current, RecordCurrent)

#define ROWWISE_KERNEL_NAME(name, ...) name,
enum class DeviceKernel {
    ROWWISE_ROW_KERNELS(ROWWISE_KERNEL_NAME) ROWWISE_OTHER_KERNELS(ROWWISE_KERNEL_NAME)
};
#undef ROWWISE_KERNEL_NAME

}  // namespace rowwise
