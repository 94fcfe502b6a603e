// The native code without Python, for the sanitizers: tables of every rule on odd shapes, bags,
// readers beside a writer, sums and random numbers of stated bits, memory that is used again, word
// vectors. Says what is wrong and exits with 1.
#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <numeric>
#include <thread>

#include "device/device_table.hpp"
#include "disk.hpp"
#include "ids.hpp"
#include "programs.hpp"
#include "random.hpp"
#include "testbed.hpp"
#include "threads.hpp"
#include "word2vec/word2vec.hpp"

using namespace rowwise;
using testbed::Kind;
using testbed::OwnTable;
using IdVector = std::vector<int64_t>;
using FloatVector = std::vector<float>;

namespace {

void require(bool holds, const char* what, const Kind& kind, int64_t dim) {
    if (holds) return;
    std::fprintf(stderr, "%s, dim %lld: %s\n", kind.name, static_cast<long long>(dim), what);
    std::exit(1);
}

bool same_bits(const FloatVector& a, const FloatVector& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

constexpr int64_t kRows = 700;
constexpr uint64_t kStatedBits = 0x2149a4d40bb85077;

IdVector all_rows() {
    IdVector ids(kRows);
    for (int64_t i = 0; i < kRows; ++i) ids[i] = i;
    return ids;
}

FloatVector values(const OwnTable& table) {
    FloatVector out(kRows * table.dim());
    table.gather(all_rows(), out);
    return out;
}

// 40 batches of sizes around the kernels' thresholds; `between` is called after each.
void train(OwnTable& table, const std::function<void(int)>& between) {
    std::mt19937_64 random(1);
    const int64_t sizes[] = {0, 1, 7, 511, 512, 513, 2000};
    for (int step = 0; step < 40; ++step) {
        const int64_t n = sizes[step % 7];
        // Few rows at times, so that some miss many steps and some are given often.
        const IdVector ids = testbed::random_ids(n, step % 3 ? kRows - 5 : 20, step % 2, random);
        FloatVector gradients(n * table.dim());
        for (auto& g : gradients)
            g = static_cast<float>(static_cast<int>(random() % 2001) - 1000) * 1e-6f;
        table.update(ids, gradients, table.next_step());
        between(step);
    }
}

void check_values(const Kind& kind, int64_t dim) {
    OwnTable table(kind, kRows, dim);
    train(table, [&](int step) {
        if (step % 9 != 8) return;
        const FloatVector before = values(table);
        table.materialize();
        require(same_bits(before, values(table)), "materialize changed a value", kind, dim);
    });
    for (const float value : values(table))
        require(std::isfinite(value), "a value is not finite", kind, dim);
}

// Row states at an address that 8 does not divide, and rows that are started anew.
void check_renewed_rows(const Kind& kind, int64_t dim) {
    OwnTable table(kind, kRows, dim, 4);
    train(table, [](int) {});
    const IdVector ids = {3, 650, 3, 0};
    FloatVector starts(ids.size() * dim);
    for (std::size_t i = 0; i < starts.size(); ++i) starts[i] = static_cast<float>(i) - 7;
    require(table.renew(ids, starts) == -1, "an id of the table was refused", kind, dim);
    require(table.renew(IdVector{kRows}, FloatVector(dim)) == 0, "a bad id was renewed", kind, dim);
    FloatVector out(starts.size());
    table.gather(ids, out);
    std::copy_n(starts.begin() + 2 * dim, dim, starts.begin());  // the later of two stands
    require(same_bits(out, starts), "a row started anew holds something else", kind, dim);
    for (const int64_t id : ids)
        require(table.states()[id].update_count == 0 && table.states()[id].last_update[0] == 0,
                "a row started anew counts updates", kind, dim);
}

void check_threads_and_copies(const Kind& kind, int64_t dim) {
    const auto trained = [&](int threads) {
        set_num_threads(threads);
        OwnTable table(kind, kRows, dim);
        train(table, [](int) {});
        return values(table);
    };
    const char* const chosen = kernels().name;
    const FloatVector expected = trained(1);
    require(same_bits(expected, trained(3)), "three threads gave other bits than one", kind, dim);
    for (const char* copy : {"portable", "avx2", "avx512"})
        if (select_kernels(copy))
            require(same_bits(expected, trained(2)), "another copy gave other bits", kind, dim);
    select_kernels(chosen);
}

// Weights of 16 bits: the bits do not depend on threads, instruction sets and looks in between.
void check_halves(const Kind& kind, int64_t dim) {
    for (const Storage storage : {Storage::bfloat16, Storage::float16})
        for (const bool at_random : {false, true}) {
            const auto trained = [&](int threads, bool looks) {
                set_num_threads(threads);
                OwnTable table(kind, kRows, dim, storage);
                if (at_random) table.round_at_random(7);
                train(table, [&](int step) {
                    if (!looks || step % 9 != 8) return;
                    const FloatVector before = values(table);
                    if (!at_random) table.materialize(IdVector{3, 9, 3});
                    require(same_bits(before, values(table)), "a look changed a value", kind, dim);
                });
                return values(table);
            };
            const char* const chosen = kernels().name;
            const FloatVector expected = trained(1, true);
            for (const float value : expected)
                require(std::isfinite(value), "a value of 16 bits is not finite", kind, dim);
            require(same_bits(expected, trained(3, at_random)), "other bits of 16", kind, dim);
            for (const char* copy : {"portable", "avx2", "avx512"})
                if (select_kernels(copy))
                    require(same_bits(expected, trained(2, at_random)),
                            "another copy gave other bits of 16", kind, dim);
            select_kernels(chosen);
        }
}

void check_bags(const Kind& kind, int64_t dim) {
    OwnTable table(kind, kRows, dim);
    train(table, [](int) {});
    std::mt19937_64 random(2);
    const IdVector ids = testbed::random_ids(3000, kRows, false, random);
    const IdVector offsets = {0, 0, 1, 5, 1000, 1000, 2999, 3000};
    FloatVector weights(ids.size());
    for (auto& w : weights) w = static_cast<float>(random() % 100) * 0.01f;
    const auto count = static_cast<int64_t>(offsets.size()) - 1;
    FloatVector pooled(count * dim), vectors(ids.size() * dim), expected(count * dim, 0.0f);
    table.gather_bags({ids, offsets, weights}, pooled);
    table.gather(ids, vectors);
    for (int64_t bag = 0; bag < count; ++bag)
        for (int64_t i = offsets[bag]; i < offsets[bag + 1]; ++i)
            for (int64_t d = 0; d < dim; ++d)
                expected[bag * dim + d] += weights[i] * vectors[i * dim + d];
    require(same_bits(pooled, expected), "a bag is not the sum of its rows", kind, dim);
}

// Readers beside each other and beside a writer, while one of them has the pool of threads. Weights
// and gradients are 0, which every rule leaves 0, so that every read must find 0.
void check_readers(const Kind& kind, int64_t dim) {
    set_num_threads(2);
    OwnTable table(kind, kRows, dim);
    table.renew(all_rows(), FloatVector(kRows * dim, 0.0f));
    const IdVector few = {0, 5, 5, 699};
    const FloatVector zeros(few.size() * dim, 0.0f);
    IdVector ids;
    for (int repeat = 0; repeat < 5; ++repeat)
        for (int64_t i = 0; i < kRows; ++i) ids.push_back(i);
    const IdVector offsets = {0, 700, static_cast<int64_t>(ids.size())};
    std::vector<std::thread> readers;
    std::vector<int> wrong(4, 0);
    std::atomic<int> reading{4};
    for (int reader = 0; reader < 4; ++reader)
        readers.emplace_back([&, reader] {
            FloatVector out(ids.size() * dim, 1.0f), bags(2 * dim, 1.0f);
            for (int round = 0; round < 5; ++round) {
                table.gather(ids, out);
                table.gather_bags({ids, offsets, {}}, bags);
                for (const float value : out) wrong[reader] += value != 0;
                for (const float value : bags) wrong[reader] += value != 0;
                std::size_t bytes = 100'000;
                void* memory = borrow(bytes);
                std::memset(memory, reader, bytes);
                give_back(memory, bytes);
            }
            --reading;
        });
    for (int step = 0; reading > 0 || step < 10; ++step) {
        table.update(few, zeros, table.next_step());
        if (step % 4 == 3) table.materialize(few);
        if (step % 8 == 7) table.materialize();
    }
    for (auto& reader : readers) reader.join();
    for (const int count : wrong)
        require(count == 0, "a reader beside a writer read something else", kind, dim);
}

// An array as a program hands it over.
template <class T>
ProgramArray array_of(std::vector<T>& values, Dtype dtype, std::span<const int64_t> shape) {
    return {dtype, values.data(), shape};
}

// Steps of a program, with readers beside it, make the bits of `Table::update`; a bad id changes
// nothing; a table that is gone is an error.
void check_programs(const Kind& kind, int64_t dim) {
    OwnTable table(kind, kRows, dim), twin(kind, kRows, dim);
    const auto turn = std::make_shared<ReentrantLock>();
    const auto program = ProgramTable::make("table");
    program->bind(table, turn);
    program->add_rule({}, {.scale = testbed::kRate, .gradient_scale = testbed::kRate}, true);
    program->use_rule(0);

    constexpr int64_t n = 900;
    const std::array<int64_t, 1> one_id{n}, size{2 + ProgramTable::kCapacity};
    const std::array<int64_t, 2> vectors{n, dim};
    const std::span<const int64_t> scalar;
    std::vector<float> token(size[0]), weights(size[0]), rate{testbed::kRate}, out(n * dim);
    std::vector<int32_t> order{0}, iteration{0}, ids(n);
    std::vector<uint8_t> now{1};
    const auto call = [&](const char* name, std::vector<ProgramArray> arguments, ProgramArray to) {
        ProgramTable::call(program->key(), ProgramTable::method(name),
                           {std::move(arguments), to, 0, -1, {}});
    };
    const auto floats = [&](FloatVector& values, std::span<const int64_t> shape) {
        return array_of(values, Dtype::float32, shape);
    };
    const ProgramArray given_ids = array_of(ids, Dtype::int32, one_id);

    std::atomic<bool> done = false;
    std::thread reader([&] {
        IdVector rows = all_rows();
        FloatVector read(kRows * dim);
        while (!done) table.gather(rows, read);
    });
    std::mt19937_64 random(1);
    for (int step = 0; step < 10; ++step) {
        const IdVector wide = testbed::random_ids(n, step % 2 ? kRows : 20, false, random);
        std::copy(wide.begin(), wide.end(), ids.begin());
        FloatVector gradients(n * dim);
        for (auto& g : gradients) g = static_cast<float>(random() % 2000) / 1000 - 1;
        token[0] = static_cast<float>(program->version());
        iteration[0] = step + 1;
        call("lookup", {floats(token, size), given_ids}, floats(out, vectors));
        call("push_rows",
             {array_of(order, Dtype::int32, scalar), floats(token, size), given_ids,
              floats(gradients, vectors)},
             floats(weights, size));
        const std::lock_guard writing(*turn);  // a thread may take it several times
        call("step",
             {floats(token, size), floats(weights, size), array_of(iteration, Dtype::int32, scalar),
              floats(rate, scalar), array_of(now, Dtype::boolean, scalar)},
             floats(token, size));
        FloatVector expected(n * dim);
        twin.gather(wide, expected);
        require(same_bits(out, expected), "a program reads other values", kind, dim);
        twin.update(wide, gradients, twin.next_step());
    }
    done = true;
    reader.join();
    require(!program->failed(), "a good program fails", kind, dim);
    require(same_bits(values(table), values(twin)), "a program steps otherwise", kind, dim);

    token[0] = static_cast<float>(program->version());
    const std::array<int64_t, 2> all{kRows, dim};
    FloatVector whole(kRows * dim);
    call("lookup_all", {floats(token, size)}, floats(whole, all));
    require(same_bits(whole, values(table)), "a program reads other rows", kind, dim);

    ids[3] = kRows;
    bool raised = false;
    try {
        ProgramTable::call(program->lasting_key(), ProgramTable::method("lookup_now"),
                           {.arguments = {given_ids}, .out = floats(out, vectors), .raises = true});
    } catch (const std::out_of_range&) {
        raised = true;
    }
    require(raised && !program->failed(), "a bad id does not end its program", kind, dim);
    call("lookup", {floats(token, size), given_ids}, floats(out, vectors));
    const auto failures = program->pop_failures();
    require(failures.size() == 1 && failures[0].bytes.size() == n * sizeof(int32_t),
            "a bad id is not recorded", kind, dim);
    require(out == FloatVector(n * dim), "a call that failed writes more than zeros", kind, dim);
    program->close();
    bool gone = false;
    try {
        call("lookup", {floats(token, size), given_ids}, floats(out, vectors));
    } catch (const TableIsGone&) {
        gone = true;
    }
    require(gone, "a table that is gone is called", kind, dim);
}

// The gradients of one id: sums of 64 in the batch's order, then these in order.
void check_sums(int64_t n, int64_t dim) {
    const Kind kind = testbed::kind("sgd");
    const OwnTable table(kind, kRows, dim);
    std::mt19937_64 random(3);
    FloatVector gradients(n * dim), expected(dim, 0.0f), block(dim);
    for (auto& g : gradients) g = static_cast<float>(random() % 100'000) * 0.01f - 500;
    for (int64_t first = 0; first < n; first += 64) {
        std::fill(block.begin(), block.end(), 0.0f);
        for (int64_t i = first; i < std::min(first + 64, n); ++i)
            for (int64_t d = 0; d < dim; ++d) block[d] += gradients[i * dim + d];
        for (int64_t d = 0; d < dim; ++d) expected[d] += block[d];
    }
    const RowGradients rows = table.sum_gradients(table.plan(IdVector(n, 7)), gradients);
    require(rows.ids.size == 1 && rows.ids[0] == 7 &&
                same_bits(expected, FloatVector(rows.sums.begin(), rows.sums.end())),
            "a sum is not that of its blocks", kind, dim);
}

// Published answers of Philox4x32-10, and numbers that do not depend on the cut of the rows.
void check_random_numbers() {
    const Kind kind{"random numbers", 0, {}, 1};
    const Random4 zero = philox(0, 0, 0), ones = philox(~0ull, ~0ull, ~0ull);
    require(zero.word[0] == 0x6627e8d5 && zero.word[1] == 0xe169c58d &&
                zero.word[2] == 0xbc57ac4c && zero.word[3] == 0x9b00dbd8 &&
                ones.word[0] == 0x408f276d && ones.word[1] == 0x41c83b0e &&
                ones.word[2] == 0xa20bc7c6 && ones.word[3] == 0x6d5451fd,
            "Philox gives other bits than its authors'", kind, 4);
    constexpr int64_t rows = 100, dim = 7;
    FloatVector whole(rows * dim), part(10 * dim), of_ids(2 * dim);
    fill_normal(whole.data(), rows, dim, 0, nullptr, 5, 1, 2);
    fill_normal(part.data(), 10, dim, 40, nullptr, 5, 1, 2);
    const IdVector ids = {99, 3};
    fill_normal(of_ids.data(), 2, dim, 0, ids.data(), 5, 1, 2);
    require(std::memcmp(part.data(), whole.data() + 40 * dim, part.size() * sizeof(float)) == 0 &&
                std::memcmp(of_ids.data() + dim, whole.data() + 3 * dim, dim * sizeof(float)) == 0,
            "a row's numbers depend on others", kind, dim);
}

void check_errors_of_helpers() {
    const Kind kind{"helpers", 0, {}, 1};
    set_num_threads(3);
    for (int round = 0; round < 20; ++round) {
        bool caught = false;
        try {
            parallel(100, 1, [](int64_t begin, int64_t) {
                if (begin == 50) throw std::bad_alloc();
            });
        } catch (const std::bad_alloc&) {
            caught = true;
        }
        require(caught, "an exception of a helper got lost", kind, 0);
    }
}

// Words 0 and 1 stand beside each other, and so do 2 and 3, 4 and 5...
FloatVector trained_words(int64_t dim, bool cbow) {
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
    FloatVector input(words * dim), output(words * dim);
    for (std::size_t i = 0; i < input.size(); ++i)
        input[i] = 0.01f * static_cast<float>(i * 37 % 19) - 0.09f;
    std::vector<RowState> states(words);
    const WordPairs pairs{input.data(),
                          output.data(),
                          states.data(),
                          words,
                          dim,
                          always.data(),
                          always.data(),
                          alias.data(),
                          3,
                          2,
                          cbow,
                          7};
    const Passage text{ids.data(), ends.data(), sentences, 0, 0.1, 1e-6, 1e-3, true};
    kernels().train_pairs(pairs, text);
    for (const RowState& state : states)
        if (state.update_count == 0) return {};
    input.insert(input.end(), output.begin(), output.end());
    return input;
}

void check_words(int64_t dim, bool cbow) {
    const Kind kind{cbow ? "cbow" : "skipgram", 0, {}, 1};
    const FloatVector vectors = trained_words(dim, cbow);
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

// Ids come and go beside readers; every one that is found has a row of its own, and a restored
// index goes on as the first.
void check_ids(bool strings) {
    Kind kind{};
    kind.name = strings ? "ids, strings" : "ids, integers";
    constexpr int64_t kCapacity = 300, kBatch = 200;
    const IdPolicy policy{kCapacity, 3, 2, false, 40, 30, 2};
    IdIndex index(policy, strings), other(policy, strings);
    struct Batch {
        IdVector integers, offsets{0};
        std::string bytes;
        Batch(int64_t first, bool strings) {
            for (int64_t i = 0; i < kBatch; ++i) {
                integers.push_back(first + i / 2);
                bytes += "item " + std::to_string(first + i / 2);
                offsets.push_back(static_cast<int64_t>(bytes.size()));
            }
            if (!strings) offsets.clear();
        }
        IdBatch view() const { return {integers, bytes.data(), offsets}; }
    };
    std::atomic<bool> stop{false};
    std::vector<std::thread> readers;
    for (int r = 0; r < 2; ++r)
        readers.emplace_back([&] {
            IdVector rows(kBatch);
            for (int64_t first = 0; !stop; first = (first + 77) % 3000) {
                index.find(Batch(first, strings).view(), rows.data());
                for (int64_t i = 2; i < kBatch; ++i)
                    require(rows[i] >= kCapacity || rows[i] != rows[i - 2], "a row of two ids",
                            kind, 0);
            }
        });
    IdVector rows(kBatch), others(kBatch);
    for (int64_t step = 0; step < 60; ++step) {
        const Batch batch(step * 50, strings);
        const IdChanges changes = index.observe(batch.view(), step, rows.data());
        require(changes.refused == 0, "an id was refused", kind, 0);
        for (const int64_t row : rows) require(row < kCapacity, "an id has no row", kind, 0);
        if (step == 30) other.restore(index.state());
        if (step <= 30) continue;
        other.observe(batch.view(), step, others.data());
        require(rows == others, "a restored index gives other rows", kind, 0);
    }
    stop = true;
    for (std::thread& reader : readers) reader.join();
    IdIndex::State damaged = index.state();
    damaged.seen.pop_back();
    bool refused = false;
    try {
        index.restore(std::move(damaged));
    } catch (const std::invalid_argument&) {
        refused = true;
    }
    require(refused, "damaged ids were taken", kind, 0);
}

// Records of two parts are packed, written to a log, read from there, merged into their region and
// read again: each is what was packed last.
void check_records() {
    const Kind kind{"records on a disk", 0, {}, 1};
    constexpr int64_t rows = 512, stride = 24;  // of 20 bytes that are used
    constexpr int64_t home = rows * stride, log = 3 * 4096;
    std::FILE* temporary = std::tmpfile();
    require(temporary != nullptr, "there is no temporary file", kind, 0);
#ifdef _WIN32
    const int number = _fileno(temporary);
#else
    const int number = fileno(temporary);
#endif
    const RecordFile file{number, stride, 512};
    std::vector<std::byte> all(home + log), first(rows * 12), second(rows * 8);
    std::vector<std::byte> read_first(first.size()), read_second(second.size());
    const std::array<RecordPart, 2> parts{{{first.data(), 12}, {second.data(), 8}}};
    const std::array<RecordPart, 2> found{{{read_first.data(), 12}, {read_second.data(), 8}}};
    const auto fill = [&](unsigned seed) {
        for (std::size_t i = 0; i < first.size(); ++i) first[i] = std::byte(seed * i >> 3);
        for (std::size_t i = 0; i < second.size(); ++i) second[i] = std::byte(seed * i >> 4);
    };
    const auto check = [&](const IdVector& at, const char* what) {
        IdVector frames(at.size());
        std::iota(frames.begin(), frames.end(), 0);
        require(read_records(file, found, at, frames, 8) == 0, what, kind, 0);
        require(read_first == first && read_second == second, what, kind, 0);
    };
    IdVector every(rows), at(rows);
    std::iota(every.begin(), every.end(), 0);
    for (int64_t i = 0; i < rows; ++i) at[i] = i * stride;
    const IdVector none, zero{0};
    for (unsigned seed = 1; seed < 4; ++seed) {
        fill(seed);
        pack_records(parts, every, at, all.data());
        // At first a region of nothing but fresh records, for which nothing is read.
        const Moves fresh{every, at};
        require(merge_records(file, {0, home}, {home, 0}, {none, none}, all.data(), fresh) == 0,
                "a region is not written", kind, 0);
        check(at, "a region is not what was written");
        fill(seed + 10);
        pack_records(parts, every, at, all.data());
        require(write_pieces(file, all.data(), zero, IdVector{log}, IdVector{home}, 8) == 0,
                "a log is not written", kind, 0);
        IdVector in_log(at);
        for (int64_t& place : in_log) place += home;
        check(in_log, "a log is not what was written");
        // Then of the log, but for one record that is newer.
        const IdVector logged(every.begin() + 1, every.end()), from(at.begin() + 1, at.end());
        const IdVector newest{0};
        first[5] = std::byte(77);
        pack_records(parts, zero, zero, all.data());
        require(merge_records(file, {0, home}, {home, log}, {logged, from}, all.data(),
                              {newest, zero}) == 0,
                "a log is not merged", kind, 0);
        check(at, "a region is not what was merged");
    }
    IdVector beyond{home + log};
    require(read_records(file, found, beyond, zero, 8) != 0, "what is not there was read", kind, 0);
    std::fclose(temporary);
}

// The bits of every rule are those of every other processor, compiler and library: their hash
// (FNV-1a) is stated here. Ftrl's are exact where its power is 1/2, as here.
void check_stated_bits() {
    uint64_t hash = 0xcbf29ce484222325;
    for (const Kind& kind : testbed::kinds()) {
        OwnTable table(kind, kRows, 19);
        train(table, [](int) {});
        for (const float value : values(table)) {
            uint32_t bits;
            std::memcpy(&bits, &value, sizeof bits);
            for (int byte = 0; byte < 4; ++byte) {
                hash ^= bits >> 8 * byte & 0xff;
                hash *= 0x100000001b3;
            }
        }
    }
    std::printf("bits of all rules: %016llx\n", static_cast<unsigned long long>(hash));
    require(hash == kStatedBits, "the bits are not those of other platforms",
            {"all rules", 0, {}, 1}, 19);
}

// The device's kernels, in an order of their own, beside the CPU's: the same bits, and no memory
// touched but theirs.
void check_device(const Kind& kind, int64_t dim, const char* order) {
    OwnTable table(kind, kRows, dim);
    const testbed::Arrays arrays(kRows, dim, kind.slots);
    const TrainingRule training = testbed::training_rule(kind);
    std::vector<float*> slots;
    for (int i = 0; i < kind.slots; ++i) slots.push_back(arrays.slot(i));
    if (kind.slots > 0) std::fill_n(slots[0], kRows * dim, training.slot_starts[0]);
    Trouble trouble;
    uint32_t alarm[1 + kOpenSteps];
    DeviceTable device(make_serial_engine(order), kRows, dim, arrays.weights(), arrays.states(),
                       &trouble, alarm, nullptr);
    device.set_rule(training, slots, true);
    std::vector<char> clock(device.clock_bytes(64) + 16);
    device.place_clock(clock.data() + 16 - reinterpret_cast<std::uintptr_t>(clock.data()) % 16, 64,
                       nullptr);
    std::mt19937_64 random(1);
    const int64_t sizes[] = {0, 1, 7, 64, 65, 130, 500};
    const float infinite = 1, none = std::numeric_limits<float>::quiet_NaN();
    for (int step = 0; step < 40; ++step) {
        const int64_t n = sizes[step % 7];
        const IdVector ids = testbed::random_ids(n, step % 3 ? kRows - 5 : 3, step % 2, random);
        FloatVector gradients(n * dim), blocks(2 * (n / kBlockSum + 1) * dim);
        FloatVector partials(n * kPartials);
        for (auto& g : gradients)
            g = static_cast<float>(static_cast<int>(random() % 2001) - 1000) * 1e-6f;
        IdVector sources(n), sorted(n);
        std::iota(sources.begin(), sources.end(), 0);
        std::stable_sort(sources.begin(), sources.end(),
                         [&](int64_t a, int64_t b) { return ids[a] < ids[b]; });
        for (int64_t i = 0; i < n; ++i) sorted[i] = ids[sources[i]];
        DeviceBatch batch;
        batch.n = n;
        batch.batch = ids.data();
        batch.ids = sorted.data();
        batch.sources = sources.data();
        batch.gradients = gradients.data();
        batch.blocks = blocks.data();
        batch.partials = partials.data();
        const StepParams params = table.next_step();
        table.update(ids, gradients, params);
        std::vector<StepParams> choices = {params};
        if (step % 5 == 4) {  // a step that is skipped, of which nobody knows at the next one
            batch.found_inf = &infinite;
            device.update(batch, choices, nullptr);
            batch.found_inf = nullptr;
            StepParams other = params;
            other.learning_rate = other.scale = 2 * params.scale;
            choices.insert(choices.begin(), other);
        }
        device.update(batch, choices, nullptr);
        device.settle();
    }
    const IdVector everything = all_rows();
    FloatVector found(kRows * dim);
    DeviceBatch read;
    read.n = kRows;
    read.batch = everything.data();
    read.out = found.data();
    device.gather(read, nullptr);
    require(same_bits(values(table), found), "a device has other bits", kind, dim);
    DeviceBatch spoiled;
    spoiled.others = &none;
    const StepParams params = table.next_step();
    table.update(everything, FloatVector(kRows * dim, none), params);
    device.update(spoiled, {params}, nullptr);
    device.gather(read, nullptr);
    const auto same = [](float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); };
    const FloatVector expected = values(table);
    require(std::equal(found.begin(), found.end(), expected.begin(), same),
            "a gradient of NaN left rows out", kind, dim);
    const IdVector bad = {3, kRows, -1};
    read.n = 3;
    read.batch = bad.data();
    device.gather(read, nullptr);
    const auto outside = device.trouble(nullptr);
    require(outside && outside->position == 1 && outside->id == kRows, "a bad id got lost", kind,
            dim);
}

}  // namespace

int main() {
    for (const int64_t dim : {3, 16, 50})
        for (const bool cbow : {false, true}) check_words(dim, cbow);
    for (const bool strings : {false, true}) check_ids(strings);
    check_records();
    check_random_numbers();
    check_stated_bits();
    check_errors_of_helpers();
    for (const int64_t n : {1, 64, 65, 128, 1000}) check_sums(n, 19);
    for (const Kind& kind : testbed::kinds()) {
        for (const int64_t dim : {1, 3, 16, 50, 129}) {
            check_values(kind, dim);
            check_bags(kind, dim);
        }
        check_renewed_rows(kind, 5);
        check_threads_and_copies(kind, 19);
        check_halves(kind, 19);
        check_readers(kind, 33);
        check_programs(kind, 19);
        check_device(kind, 5, "backwards");
        check_device(kind, 20, "shuffled");
    }
    std::puts("the native code is as it should be");
    return 0;
}
