// The arguments of the device's kernels: one plain struct, by value.
#pragma once
#include "lagged.hpp"
#include "plain.hpp"

namespace rowwise {

constexpr int64_t kBlockSum = 64;  // gradients of one id that are summed before the next such sum
constexpr int kPartials = 16;      // partial sums of a product of two rows

// The first id outside the table that a kernel met. From then on kernels write nothing to the
// table, until the host has raised the error and cleared this.
struct Trouble {
    uint64_t key;   // number of the call << 32 | position in its batch; kNoTrouble: none
    int64_t id;     // what stood there
    int64_t steps;  // the table's steps before that call
    uint32_t now;   // the clock's reading before that call
    uint32_t unused;
};
constexpr uint64_t kNoTrouble = ~uint64_t{0};

struct DeviceCall {
    TableView table;
    ClockView clock;
    Hyperparameters hyper;
    Step step;
    StepRecord record;  // the step, as the clock remembers it
    int64_t steps;      // of the table, before this call
    uint64_t key;       // number of the call << 32
    Trouble* trouble;
    volatile uint32_t* alarm;  // in the host's memory, 1 once there is trouble

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
    bool advances;  // whether the clock takes the step
};
// The host's compiler and the device's lay it out alike.
static_assert(sizeof(DeviceCall) == 472 && sizeof(LaggedUpdate) == 64);
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
    X(advance, Advance)                       \
    X(record_current, RecordCurrent)

#define ROWWISE_KERNEL_NAME(name, ...) name,
enum class DeviceKernel {
    ROWWISE_ROW_KERNELS(ROWWISE_KERNEL_NAME) ROWWISE_OTHER_KERNELS(ROWWISE_KERNEL_NAME)
};
#undef ROWWISE_KERNEL_NAME

}  // namespace rowwise
