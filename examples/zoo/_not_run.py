"""Reported bugs that have no entry, and why."""

from _entry import NotRun

NOT_RUN = (
    NotRun(
        "A12",
        "Estimator divides by N, and so does the loop",
        ("tensorflow/tensorflow#35333", "tensorflow/tensorflow#25806"),
        "TensorFlow 2.16 took Estimator out. `a08_double_division` has the same factor",
    ),
    NotRun(
        "A14",
        "`gradient_accumulation_steps` under MirroredStrategy",
        ("keras-team/keras#20582", "keras-team/keras#17429"),
        "Raises an error, so there is no gradient to compare. "
        "`DistributedOptimizer(accumulation_steps=...)` does it",
    ),
    NotRun(
        "A14",
        "hand-made accumulators that apply zero gradients between updates",
        ("keras-team/tf-keras#301", "keras-team/tf-keras#107"),
        "The gradients are right; momentum and Adam move without them. That is no "
        "question of how a batch is split",
    ),
    NotRun(
        "A25",
        "`all_reduce` of a variable returns it unsummed",
        ("tensorflow/tensorflow#45026",),
        "TensorFlow 2.21 sums it, on virtual CPUs, eagerly and in a graph",
    ),
    NotRun(
        "A25",
        "sums of NCCL that are wrong or random",
        ("tensorflow/tensorflow#41539", "tensorflow/tensorflow#62493"),
        "Needs several GPUs",
    ),
    NotRun(
        "A21",
        "contrastive losses gathered with Horovod",
        ("horovod/horovod#2654", "horovod/horovod#2687"),
        "Horovod averages the gradient of a gather. That is a factor in a part of a "
        "loss that compares rows, which the audit can only call `not-decomposable`, "
        "as `a22_contrastive`",
    ),
    NotRun(
        "B6",
        "local variables of model-parallel layers",
        ("horovod/horovod#3695", "horovod/horovod#3719"),
        "Each process holds other variables: one process has nothing to compare with",
    ),
    NotRun(
        "B7",
        "the number of processes frozen in a graph",
        ("horovod/horovod#1955",),
        "Needs a step that is traced by one number of processes and run by another "
        "(elastic Horovod)",
    ),
    NotRun(
        "C6",
        "parameters of experts",
        ("pytorch/pytorch#160285", "deepspeedai/DeepSpeed#5259"),
        "Expert parallelism of PyTorch; `b05_sparse_gradients` has the same sign, some "
        "variables scaled apart from others",
    ),
    NotRun(
        "D",
        "`multi_gpu_model`: another loss than on one device",
        ("keras-team/keras#8200", "keras-team/keras#13752"),
        "Keras 2.4 took `multi_gpu_model` out. What MirroredStrategy does in its place "
        "is in `a05_fit_uneven` and `a24_batch_normalization`",
    ),
    NotRun(
        "D",
        "areas under curves, averaged over processes",
        ("horovod/horovod#444", "horovod/horovod#362"),
        "A metric of an evaluation, no part of a step: the area for all rows is no sum "
        "of those of parts. `d05_average_shown` has what #444 asks of losses",
    ),
    NotRun(
        "D",
        "moving statistics of `BatchNormalization` that differ between processes",
        ("horovod/horovod#151", "horovod/horovod#822", "horovod/horovod#1006"),
        "They are for evaluation: weights, and the update of weights, are the same "
        "everywhere. `d03_batch_norm_of_a_process` has what a step uses",
    ),
    NotRun(
        "D",
        "`MetricAverageCallback` that leaves logs different",
        ("horovod/horovod#2440",),
        "Raises AttributeError with Keras 3, and so leaves nothing to compare",
    ),
    NotRun(
        "D",
        "weights that diverge after `hvd.load_model`",
        ("horovod/horovod#2604", "horovod/horovod#1964"),
        "Needs a run that saves and another one that loads. What is loaded then trains "
        "with an optimizer that does not reduce, the step of `b04_keras_3_fit`",
    ),
    NotRun(
        "D",
        "accumulators that keep a NaN, since they are cleared by a subtraction",
        ("horovod/horovod#2957",),
        "Shows in the step after an overflow, in an accumulator of Horovod that Keras "
        "3 does not call",
    ),
    NotRun(
        "D",
        "Adasum: another accuracy than on one device",
        ("horovod/horovod#1676", "horovod/horovod#1729", "horovod/horovod#1735"),
        "Another update by design, and in TensorFlow 2 an error inside `tf.function`",
    ),
    NotRun(
        "D",
        "processes that stop, or reduce, in other steps than the others",
        (
            "horovod/horovod#3140",
            "horovod/horovod#507",
            "tensorflow/tensorflow#46863",
        ),
        "Ends in an error or a hang, not in a wrong gradient. "
        "`d23_rate_of_each_process` has decisions of a process that go on in silence",
    ),
    NotRun(
        "D",
        "`strategy.reduce(MEAN, ...)` of losses that are shares",
        ("tensorflow/tensorflow#28956",),
        "What is done with what `strategy.run` returned is no part of the step: "
        "`distloss lint` names it in the source",
    ),
    NotRun(
        "E1",
        "the loss of an epoch: means of batches, a short last one like a full one",
        ("tensorflow/tensorflow#38596",),
        "No bug of a step: each batch shows its loss, the mean over batches was wrong. "
        "Keras weighs batches by their rows since TensorFlow 2.2",
    ),
    NotRun(
        "E2",
        "the loss of another output: the last layer gets no gradient",
        ("tensorflow/tensorflow#37887",),
        "The loss that is asked for does not depend on that layer: one device makes "
        "the same step, and nothing depends on the split",
    ),
    NotRun(
        "E5",
        "metrics of `compile` that do not respect masks",
        ("tensorflow/tensorflow#40002",),
        "A metric, not a step: gradient and loss are right. `weighted_metrics` are "
        "given the mask",
    ),
    NotRun(
        "E6",
        "logs of a batch: the loss of the batch beside a running accuracy",
        ("tensorflow/tensorflow#36400",),
        "What a callback is shown, not a step. Keras 3 shows running means of both",
    ),
    NotRun(
        "F12",
        "collectives with other arguments on some ranks, which hang",
        ("deepspeedai/DeepSpeed#6714",),
        "A step that waits for ever has no gradient to compare. "
        "`f06_collectives_in_other_order` is the silent form",
    ),
    NotRun(
        "G20",
        "the gradient of a sum, shown as a mean",
        ("pytorch/torchtitan#2972",),
        "The same factor on one device and on many: nothing depends on the split",
    ),
    NotRun(
        "G21",
        "labels counted before the shift, over all replicas",
        ("huggingface/transformers#46204",),
        "The same factor however a batch is split. Counted by each replica it is "
        "`g06_counted_before_the_shift`",
    ),
    NotRun(
        "G22",
        "a global count in the gradient of a head that has fewer labels",
        ("NVIDIA/Megatron-LM#2417", "NVIDIA/Megatron-LM#3159"),
        "A weight of the second term, the same on one device. With local counts it is "
        "`g08_second_term_local`",
    ),
)
