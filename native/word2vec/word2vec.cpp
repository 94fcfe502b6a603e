// word2vec's skip-gram and continuous bag of words with negative sampling (Mikolov et al.,
// Distributed Representations of Words and Phrases and their Compositionality, 2013).
//
// A word's vector h is multiplied with the output row u of a word that stands near it, which shall
// give 1, and of a few words drawn at random, which shall give 0:
//     g = (label - sigmoid(h . u)) * rate;   error += g u;   u += g h;   then h += error
// Several threads write to the same rows without waiting for each other, as in word2vec: what is
// lost now and then is noise beside that of the random words.
#include "word2vec/word2vec.hpp"

#include <atomic>
#include <cmath>

#include "rows.hpp"
#include "threads.hpp"

namespace rowwise {
namespace ROWWISE_ISA {

namespace {

constexpr int64_t kWordsPerTask = 4096;

// Not std::max and std::min, whose code the copies of this file might share.
template <class T>
T larger(T a, T b) {
    return a > b ? a : b;
}
template <class T>
T smaller(T a, T b) {
    return a < b ? a : b;
}

// splitmix64 (Steele et al., Fast Splittable Pseudorandom Number Generators, 2014).
struct Random {
    uint64_t state;

    uint64_t next() {
        uint64_t z = state += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    uint64_t below(uint64_t bound) { return ((next() >> 32) * bound) >> 32; }
};

// The draws of a sentence depend on its place and its pass alone, not on who trains it.
Random random_of(uint64_t seed, uint64_t place) {
    Random first{seed};
    return {first.next() ^ (place * 0xd1342543de82ef95u)};
}

// A prediction: its context words were chosen, its target and the noise are drawn.
struct Job {
    const int32_t* context;  // words that predict, or one word
    int contexts;
    int32_t* targets;  // the word that stands there, then the noise
    int count;
    float rate;
};

struct Trainer {
    const WordPairs& pairs;
    Scratch<float> mean, error;

    explicit Trainer(const WordPairs& pairs) : pairs(pairs), mean(pairs.dim), error(pairs.dim) {}

    float* input(int32_t word) const { return pairs.input + word * pairs.dim; }
    float* output(int32_t word) const { return pairs.output + word * pairs.dim; }

    void draw(Job& job, int32_t target, Random& random) const {
        job.targets[0] = target;
        job.count = 1;
        for (int i = 0; i < pairs.negative; ++i) {
            const uint64_t bits = random.next();
            const auto slot = static_cast<int32_t>(((bits >> 32) * pairs.words) >> 32);
            const bool own = static_cast<uint32_t>(bits) < pairs.accept[slot];
            const int32_t word = own ? slot : pairs.alias[slot];
            if (static_cast<uint32_t>(word) >= static_cast<uint64_t>(pairs.words)) continue;
            if (word != target) job.targets[job.count++] = word;
        }
        for (int i = 0; i < job.count; ++i) prefetch_row<true>(output(job.targets[i]), pairs.dim);
        for (int i = 0; i < job.contexts; ++i) prefetch_row<true>(input(job.context[i]), pairs.dim);
    }

    void train(const Job& job) const {
        const int64_t dim = pairs.dim;
        const float* __restrict h = input(job.context[0]);
        if (job.contexts > 1) {
            add_up(job);
            h = mean.data;
        }
        float* __restrict sum = error.data;
        for (int64_t d = 0; d < dim; ++d) sum[d] = 0;
        for (int i = 0; i < job.count; ++i) {
            float* __restrict u = output(job.targets[i]);
            const float label = i == 0 ? 1.0f : 0.0f;
            const float g = (label - sigmoid(dot(h, u, dim))) * job.rate;
#pragma GCC ivdep
            for (int64_t d = 0; d < dim; ++d) {
                const float old = u[d];
                sum[d] += g * old;
                u[d] = old + g * h[d];
            }
        }
        for (int i = 0; i < job.contexts; ++i) {
            float* __restrict row = input(job.context[i]);
            for (int64_t d = 0; d < dim; ++d) row[d] += sum[d];
        }
    }

    void add_up(const Job& job) const {
        const float share = 1.0f / static_cast<float>(job.contexts);
        float* __restrict sum = mean.data;
        for (int64_t d = 0; d < pairs.dim; ++d) sum[d] = 0;
        for (int i = 0; i < job.contexts; ++i) {
            const float* __restrict row = input(job.context[i]);
            for (int64_t d = 0; d < pairs.dim; ++d) sum[d] += row[d];
        }
        for (int64_t d = 0; d < pairs.dim; ++d) sum[d] *= share;
    }

    static float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

    // <a, b>, in sixteen partial sums: the same bits for any width of vector instructions.
    static float dot(const float* __restrict a, const float* __restrict b, int64_t dim) {
        float lane[kLine] = {};
        int64_t d = 0;
        for (; d + kLine <= dim; d += kLine)
            for (int j = 0; j < kLine; ++j) lane[j] += a[d + j] * b[d + j];
        for (int j = 0; d < dim; ++d, ++j) lane[j] += a[d] * b[d];
        for (int64_t half = kLine / 2; half > 0; half /= 2)
            for (int64_t j = 0; j < half; ++j) lane[j] += lane[j + half];
        return lane[0];
    }
};

// Trains each prediction while the rows of the next come from memory.
class Pipeline {
  public:
    explicit Pipeline(const WordPairs& pairs)
        : trainer_(pairs), targets_(2 * (1 + pairs.negative)), contexts_(4 * pairs.window) {
        for (int i = 0; i < 2; ++i) {
            jobs_[i].targets = targets_.data + i * (1 + pairs.negative);
            jobs_[i].context = contexts_.data + i * 2 * pairs.window;
        }
    }

    // Where the next prediction's context words go: (2 * window,).
    int32_t* contexts() { return const_cast<int32_t*>(jobs_[next_].context); }

    void add(int contexts, int32_t target, float rate, Random& random) {
        Job& job = jobs_[next_];
        job.contexts = contexts;
        job.rate = rate;
        trainer_.draw(job, target, random);
        next_ ^= 1;
        if (waiting_) trainer_.train(jobs_[next_]);
        waiting_ = true;
    }

    void finish() {
        if (waiting_) trainer_.train(jobs_[next_ ^ 1]);
        waiting_ = false;
    }

  private:
    Trainer trainer_;
    Scratch<int32_t> targets_, contexts_;
    Job jobs_[2];
    int next_ = 0;
    bool waiting_ = false;
};

// What RowState::count_update does, beside other threads.
void count_update(RowState& state, uint64_t iteration) {
    const std::atomic_ref count(state.update_count);
    uint32_t before = count.load(std::memory_order_relaxed);
    while (before != UINT32_MAX &&
           !count.compare_exchange_weak(before, before + 1, std::memory_order_relaxed)) {
    }
    const std::atomic_ref low(state.last_update[0]), high(state.last_update[1]);
    low.store(static_cast<uint32_t>(iteration), std::memory_order_relaxed);
    high.store(static_cast<uint32_t>(iteration >> 32), std::memory_order_relaxed);
}

struct Sentences {
    const WordPairs& pairs;
    const Passage& text;

    void train(int64_t begin, int64_t end) const {
        int64_t longest = 1;
        for (int64_t s = begin; s < end; ++s) longest = larger(longest, length(s));
        const Scratch<int32_t> kept(longest);
        Pipeline pipeline(pairs);
        for (int64_t s = begin; s < end; ++s) train_one(s, kept.data, pipeline);
        pipeline.finish();
    }

    int64_t start(int64_t s) const { return s > 0 ? text.ends[s - 1] : 0; }
    int64_t length(int64_t s) const { return text.ends[s] - start(s); }

    void train_one(int64_t s, int32_t* kept, Pipeline& pipeline) const {
        const int64_t place = text.words_done + start(s);
        Random random = random_of(pairs.seed, static_cast<uint64_t>(place));
        int64_t n = 0;
        for (int64_t i = start(s); i < text.ends[s]; ++i)
            if (static_cast<uint32_t>(random.next() >> 32) <= pairs.keep[text.ids[i]])
                kept[n++] = text.ids[i];
        if (n < 2) return;
        const double wanted = text.lr - text.lr_slope * static_cast<double>(place);
        const auto rate = static_cast<float>(larger(text.min_lr, wanted));
        for (int64_t i = 0; i < n; ++i) {
            RowState& state = pairs.states[kept[i]];
            count_update(state, static_cast<uint64_t>(place + i + 1));
            const auto reach = static_cast<int64_t>(1 + random.below(pairs.window));
            const int64_t from = larger<int64_t>(0, i - reach);
            const int64_t to = smaller(n, i + reach + 1);
            int contexts = 0;
            for (int64_t j = from; j < to; ++j) {
                if (j == i) continue;
                pipeline.contexts()[contexts++] = kept[j];
                if (pairs.cbow) continue;
                pipeline.add(1, kept[i], rate, random);
                contexts = 0;
            }
            if (pairs.cbow && contexts > 0) pipeline.add(contexts, kept[i], rate, random);
        }
    }
};

}  // namespace

void train_pairs(const WordPairs& pairs, const Passage& text) {
    const Sentences sentences{pairs, text};
    const int64_t count = text.sentences;
    if (text.single_thread) return sentences.train(0, count);
    const int64_t words = count > 0 ? text.ends[count - 1] : 0;
    const int64_t grain = larger<int64_t>(1, count * kWordsPerTask / larger<int64_t>(1, words));
    parallel(count, grain, [&](int64_t begin, int64_t end) { sentences.train(begin, end); });
}

}  // namespace ROWWISE_ISA
}  // namespace rowwise
