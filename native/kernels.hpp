// What the kernels do. They are compiled once per instruction set and work on plain data. Whoever
// calls them has checked every id and offset, in memory that no other thread writes.
#pragma once
#include <cstdint>

#include "clock.hpp"
#include "plain.hpp"
#include "plan.hpp"
#include "word2vec/word2vec.hpp"

namespace rowwise {

struct Kernels {
    const char* name;
    // out (n, dim) <- the present values of rows ids (n,). Writes nothing else.
    void (*gather)(const TableView&, const Rule&, const Clock&, const int64_t* ids, int64_t n,
                   float* out);
    // Brings the rows of the plan up to date, then makes one step with the sums of their gradients.
    void (*update)(const TableView&, const Rule&, const Clock&, const Step&, const Plan&,
                   const float* gradients);
    // Brings the rows of the plan up to date.
    void (*materialize)(const TableView&, const Rule&, const Clock&, const Plan&);
    // Brings every row up to date; the caller then restarts the clock.
    void (*materialize_all)(const TableView&, const Rule&, const Clock&);
    // out (rows, slot_dim) <- the present values of slot `slot`.
    void (*read_slot)(const TableView&, const Rule&, const Clock&, int slot, float* out);

    // out (bags, dim) <- the weighted sum of each bag's rows; 0 where it is empty.
    void (*gather_bags)(const TableView&, const Rule&, const Clock&, const Bags&, float* out);
    // out (bags, dim) <- the largest of each bag's values, weights aside, and argmax (bags, dim)
    // <- the first position that has it; 0 and -1 where the bag is empty.
    void (*gather_bags_max)(const TableView&, const Rule&, const Clock&, const Bags&, float* out,
                            int64_t* argmax);
    // out (n,) <- the product of each row with its bag's gradient, of gradients (bags, dim).
    void (*bag_weight_gradient)(const TableView&, const Rule&, const Clock&, const Bags&,
                                const float* gradients, float* out);
    // out (distinct, dim) <- the sum of the gradients of each distinct id. Returns whether all of
    // them are finite.
    bool (*sum_gradients)(const Plan&, int64_t dim, const float* gradients, float* out);
    // The same for `gather_bags_max`, from gradients (bags, dim), a plan of positions and the bag
    // of each, bag_of (n,).
    void (*gather_bags_max_gradient)(const Plan&, const uint32_t* bag_of, int64_t dim,
                                     const int64_t* argmax, const float* gradients, float* out);

    // out (n,) <- numbers as they are stored, not float32; and the other way, rounded to nearest.
    void (*widen)(Storage, const uint16_t* stored, int64_t n, float* out);
    void (*narrow)(Storage, const float* values, int64_t n, uint16_t* out);

    // Trains word2vec on part of a text.
    void (*train_pairs)(const WordPairs&, const Passage&);
};

const Kernels& kernels();               // the best this processor runs
bool select_kernels(const char* name);  // for tests and benchmarks; false where it cannot run

}  // namespace rowwise
