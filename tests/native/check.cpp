// The native code without Python, for the sanitizers: every rule's kernels on odd shapes, plans,
// bags, readers beside each other, memory that is used again, word vectors. Says what is wrong and exits with 1.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <thread>

#include "testbed.hpp"
#include "threads.hpp"
#include "word2vec.hpp"

using namespace rowwise;
using testbed::Kind;
using testbed::Table;
using Ids = std::vector<int64_t>;
using Floats = std::vector<float>;

namespace {

void require(bool holds, const char* what, const Kind& kind, int64_t dim) {
    if (holds) return;
    std::fprintf(stderr, "%s, dim %lld: %s\n", kind.name, static_cast<long long>(dim), what);
    std::exit(1);
}

bool same_bits(const Floats& a, const Floats& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

std::vector<Kind> kinds() {
    using testbed::kBeta1;
    using testbed::kBeta2;
    Kind adam = testbed::adam();
    const auto like_adam = [&](const char* name, Family family, int slots) {
        Kind kind = adam;
        kind.name = name;
        kind.family = family;
        kind.slots = slots;
        return kind;
    };
    return {
        {"sgd", Family::sgd, 0},
        {"momentum", Family::momentum, 1, 1, kBeta1},
        {"nesterov", Family::nesterov, 1, 1, kBeta1},
        {"torch momentum", Family::torch_momentum, 1, 1, kBeta1},
        {"torch nesterov", Family::torch_nesterov, 1, 1, kBeta1},
        {"rmsprop", Family::rmsprop, 1},
        {"rmsprop centered", Family::rmsprop_centered, 2},
        {"rmsprop momentum", Family::rmsprop_momentum, 2, 1, kBeta1},
        {"rmsprop centered momentum", Family::rmsprop_centered_momentum, 3, 1, kBeta1},
        {"torch rmsprop", Family::torch_rmsprop, 1},
        {"torch rmsprop centered momentum", Family::torch_rmsprop_centered_momentum, 3, 1, kBeta1},
        {"adagrad", Family::adagrad, 1},
        {"torch adagrad", Family::torch_adagrad, 1},
        {"adadelta", Family::adadelta, 2},
        adam,
        like_adam("amsgrad", Family::adam_amsgrad, 3),
        like_adam("nadam", Family::nadam, 2),
        {"adamax", Family::adamax, 2, kTerms, kBeta1 / kBeta2, 1 / kBeta2, kBeta2},
        {"torch adamax", Family::torch_adamax, 2, kTerms, kBeta1 / kBeta2, 1 / kBeta2, kBeta2},
        {"lion", Family::lion, 1, 1, 1.0, 1.0, 1.0, true},
        {"ftrl", Family::ftrl, 2},
    };
}

constexpr int64_t kRows = 700;

Ids all_rows() {
    Ids ids(kRows);
    for (int64_t i = 0; i < kRows; ++i) ids[i] = i;
    return ids;
}

Floats values(const Table& table) {
    Floats out(kRows * table.store().dim);
    table.lookup(all_rows(), out.data());
    return out;
}

// 40 batches of sizes around the kernels' thresholds; `between` is called after each.
void train(Table& table, const std::function<void(int)>& between) {
    std::mt19937_64 random(1);
    const int64_t sizes[] = {0, 1, 7, 511, 512, 513, 2000};
    for (int step = 0; step < 40; ++step) {
        const int64_t n = sizes[step % 7];
        // Few rows at times, so that some miss many steps and some are given twice.
        const Ids ids = testbed::random_ids(n, step % 3 ? kRows - 5 : 20, step % 2, random);
        Floats gradients(n * table.store().dim);
        for (auto& g : gradients) g = static_cast<float>(static_cast<int>(random() % 2001) - 1000) * 1e-6f;
        table.update(table.plan(ids), gradients.data());
        between(step);
    }
}

void check_values(const Kind& kind, int64_t dim) {
    Table table(kind, kRows, dim);
    train(table, [&](int step) {
        if (step % 9 != 8) return;
        const Floats before = values(table);
        table.sync();
        require(same_bits(before, values(table)), "a sync changed a value", kind, dim);
    });
}

void check_threads_and_copies(const Kind& kind, int64_t dim) {
    const auto trained = [&](int threads) {
        set_num_threads(threads);
        Table table(kind, kRows, dim);
        train(table, [](int) {});
        return values(table);
    };
    const char* const chosen = kernels().name;
    const Floats expected = trained(1);
    require(same_bits(expected, trained(3)), "three threads gave other bits than one", kind, dim);
    for (const char* copy : {"portable", "avx2", "avx512"})
        if (select_kernels(copy))
            require(same_bits(expected, trained(2)), "another copy gave other bits", kind, dim);
    select_kernels(chosen);
}

void check_bags(const Kind& kind, int64_t dim) {
    Table table(kind, kRows, dim);
    train(table, [](int) {});
    std::mt19937_64 random(2);
    const Ids ids = testbed::random_ids(3000, kRows, false, random);
    Ids offsets = {0, 0, 1, 5, 1000, 1000, 2999, 3000};
    Floats weights(ids.size());
    for (auto& w : weights) w = static_cast<float>(random() % 100) * 0.01f;
    const auto count = static_cast<int64_t>(offsets.size()) - 1;
    Floats pooled(count * dim), vectors(ids.size() * dim), expected(count * dim, 0.0f);
    table.pool({ids.data(), offsets.data(), weights.data(), 3000, count}, pooled.data());
    table.lookup(ids, vectors.data());
    for (int64_t bag = 0; bag < count; ++bag)
        for (int64_t i = offsets[bag]; i < offsets[bag + 1]; ++i)
            for (int64_t d = 0; d < dim; ++d)
                expected[bag * dim + d] += weights[i] * vectors[i * dim + d];
    require(same_bits(pooled, expected), "a bag is not the sum of its rows", kind, dim);
}

// Readers beside each other, while one of them has the pool of threads.
void check_readers(const Kind& kind, int64_t dim) {
    set_num_threads(2);
    Table table(kind, kRows, dim);
    train(table, [](int) {});
    const Floats expected = values(table);
    Ids ids;
    for (int repeat = 0; repeat < 5; ++repeat)
        for (int64_t i = 0; i < kRows; ++i) ids.push_back(i);
    std::vector<std::thread> readers;
    std::vector<int> wrong(4, 0);
    for (int reader = 0; reader < 4; ++reader)
        readers.emplace_back([&, reader] {
            Floats out(ids.size() * dim);
            for (int round = 0; round < 5; ++round) {
                table.lookup(ids, out.data());
                wrong[reader] += std::memcmp(out.data(), expected.data(),
                                             expected.size() * sizeof(float)) != 0;
                std::size_t bytes = 100'000;
                void* memory = borrow(bytes);
                std::memset(memory, reader, bytes);
                give_back(memory, bytes);
            }
        });
    for (auto& reader : readers) reader.join();
    for (const int count : wrong)
        require(count == 0, "a reader beside others read something else", kind, dim);
}

// Words 0 and 1 stand beside each other, and so do 2 and 3, 4 and 5...
Floats trained_words(int64_t dim, bool cbow) {
    constexpr int64_t words = 16, sentences = 1000, length = 5;
    const std::vector<uint32_t> always(words, UINT32_MAX);
    std::vector<int32_t> alias(words);
    std::iota(alias.begin(), alias.end(), 0);
    std::vector<int32_t> ids;
    std::vector<int64_t> ends;
    for (int64_t s = 0; s < sentences; ++s) {
        for (int64_t i = 0; i < length; ++i) ids.push_back(static_cast<int32_t>(s % 8 * 2 + i % 2));
        ends.push_back(static_cast<int64_t>(ids.size()));
    }
    Floats input(words * dim), output(words * dim);
    for (std::size_t i = 0; i < input.size(); ++i)
        input[i] = 0.01f * static_cast<float>(i * 37 % 19) - 0.09f;
    std::vector<RowState> states(words);
    const WordPairs pairs{input.data(), output.data(), states.data(), words, dim, always.data(),
                          always.data(), alias.data(), 3, 2, cbow, 7};
    const Passage text{ids.data(), ends.data(), 0, sentences, 0, 0.1, 1e-6, 1e-3, true};
    kernels().train_pairs(pairs, text);
    for (const RowState& state : states)
        if (state.updates == 0) return {};
    input.insert(input.end(), output.begin(), output.end());
    return input;
}

void check_words(int64_t dim, bool cbow) {
    const Kind kind{cbow ? "cbow" : "skipgram", Family::sgd, 0};
    const Floats vectors = trained_words(dim, cbow);
    const auto score = [&](int64_t a, int64_t b) {
        const float* output = vectors.data() + vectors.size() / 2;
        float sum = 0;
        for (int64_t d = 0; d < dim; ++d) sum += vectors[a * dim + d] * output[b * dim + d];
        return sum;
    };
    require(!vectors.empty(), "a word of the text was not counted", kind, dim);
    require(same_bits(vectors, trained_words(dim, cbow)), "a repeat gives other bits", kind, dim);
    require(score(0, 1) > score(0, 3) && score(2, 3) > score(2, 1),
            "a word does not tell its neighbour from others", kind, dim);
}

}  // namespace

int main() {
    for (const int64_t dim : {3, 16, 50})
        for (const bool cbow : {false, true}) check_words(dim, cbow);
    for (const Kind& kind : kinds()) {
        for (const int64_t dim : {1, 3, 16, 50, 129}) {
            check_values(kind, dim);
            check_bags(kind, dim);
        }
        check_threads_and_copies(kind, 19);
        check_readers(kind, 33);
    }
    std::puts("the native code is as it should be");
    return 0;
}
