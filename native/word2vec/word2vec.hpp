// word2vec: rows trained to tell the words that stand near each other from words drawn at random.
#pragma once
#include <cstdint>

namespace rowwise {

struct RowState;

// Two tables of V words, and how words are drawn.
struct WordPairs {
    float* input;            // (V, dim): the vectors
    float* output;           // (V, dim): what they are multiplied with
    RowState* states;        // (V,) of the input
    int64_t words, dim;      // V
    const uint32_t* keep;    // (V,): a word of the text is left out if 32 random bits are above
    const uint32_t* accept;  // (V,) and
    const int32_t* alias;    // (V,): Walker's alias table for negative samples
    int window, negative;
    bool cbow;
    uint64_t seed;
};

// Sentences of a text that is read several times over.
struct Passage {
    const int32_t* ids;   // (words,), each within 0..V-1
    const int64_t* ends;  // (sentences,): sentence s is ids[ends[s - 1]..ends[s])
    int64_t sentences;
    int64_t words_done;           // words before the passage, those of earlier passes too
    double lr, lr_slope, min_lr;  // the rate of word i is max(min_lr, lr - lr_slope * i)
    bool single_thread;           // whose result repeats
};

}  // namespace rowwise
