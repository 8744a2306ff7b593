"""The tables of the clinic.

A healthy row gives a network, data, steps and batch, and the rate of each optimizer and schedule
(or "-"). The rates come from a grid of about a factor of three, at 400 to 500 steps and one seed;
those that it left out are completed by analogy. A sick row names one of these trainings and what is
done to it, with how much of it.
"""

DEVELOPMENT_HEALTHY = """
network      data         steps batch adamw/cosine sgd/cosine momentum/step adam/onecycle momentum/constant adam/constant
perceptron   digits       400   32    0.010        0.60       0.05          0.010         0.030             0.003
perceptron   clusters     400   32    0.020        0.60       0.08          0.020         0.030             0.005
perceptron   friedman     400   32    0.020        0.20       0.03          0.020         0.010             0.005
deep         digits       400   32    0.006        0.20       0.03          0.006         0.015             0.002
deep         clusters     400   32    0.010        0.20       0.03          0.010         0.015             0.003
batch_norm   digits       400   32    0.020        0.60       0.06          0.020         0.030             0.005
batch_norm   clusters     400   32    0.020        0.60       0.06          0.020         0.030             0.005
convolutions digits       400   32    0.010        0.50       0.03          0.010         0.030             0.004
skips        friedman     400   32    0.010        0.20       0.03          0.010         0.015             0.003
skips        clusters     400   32    0.010        0.50       0.05          0.010         0.020             0.003
gru          markov       400   32    0.020        -          -             0.020         -                 0.010
attention    markov       400   32    0.015        -          -             0.015         -                 0.005
wide         digits       60    16    0.001        0.05       0.01          -             -                 -
"""  # noqa: E501

JUDGED_HEALTHY = """
network      data         steps batch adamw/cosine sgd/cosine momentum/step adam/onecycle momentum/constant adam/constant
smooth       clothes      400   32    0.006        0.30       0.03          0.006         0.015             0.002
smooth       interactions 400   32    0.012        0.80       0.08          0.012         0.040             0.004
smooth       waves        400   32    0.015        0.80       0.08          0.015         0.040             0.005
tower        interactions 400   32    0.010        0.40       0.04          0.010         0.020             0.004
tower        clothes      400   32    0.003        0.08       0.01          0.003         0.005             0.001
normed       waves        400   32    0.006        0.10       0.01          0.006         0.005             0.002
normed       interactions 400   32    0.003        0.20       0.02          0.003         0.010             0.001
conv_norm    clothes      400   32    0.015        0.60       0.06          0.015         0.030             0.005
conv_skips   clothes      400   32    0.010        0.10       0.01          0.010         0.008             0.003
lstm         manual       400   32    0.030        -          -             0.030         -                 0.010
lstm         tones        400   32    0.015        -          -             0.015         -                 0.005
transformer  manual       400   32    0.020        -          -             0.020         -                 0.007
broad        clothes      60    16    0.001        0.05       0.01          -             -                 -
"""  # noqa: E501

DEVELOPMENT_SICK = """
perceptron digits adamw cosine : rate_low 2
perceptron friedman sgd cosine : rate_low 12
gru markov adam onecycle : rate_low 16
wide digits adamw cosine : rate_low 4
deep digits adamw cosine : rate_high 8
deep digits adamw cosine : rate_high 3
skips clusters momentum step : rate_high 3
gru markov adamw cosine : rate_high 8
perceptron clusters adam constant : rate_high 15
perceptron digits sgd cosine : momentum_rate 0.96
batch_norm digits sgd cosine : momentum_rate 0.97
perceptron friedman adamw cosine : no_decay 1
perceptron digits sgd cosine : no_decay 1
skips friedman adamw cosine : no_decay 1
skips friedman momentum step : decay_early 0.15
skips friedman momentum step : decay_early 0.6
gru markov adamw cosine : decay_early 0.15
convolutions digits sgd cosine : by_step 0.99
skips clusters adam onecycle : by_epoch 1
perceptron friedman adamw cosine : waves 20
perceptron digits momentum constant : stopped_early 6
gru markov adamw cosine : batch_small 3
skips friedman sgd cosine : batch_small 4
perceptron friedman adamw cosine : batch_large 4
perceptron digits sgd cosine : batch_large 16
perceptron digits sgd cosine : accumulation 3
deep digits momentum step : accumulation 3
batch_norm clusters adamw cosine : zero_grad 10
batch_norm clusters adamw cosine : zero_grad 10000
convolutions digits momentum step : clip_small 0.1
perceptron digits sgd cosine : clip_small 0.8
batch_norm digits sgd cosine : weight_decay 0.01
perceptron friedman adamw cosine : weight_decay 3
perceptron friedman adamw cosine : weight_decay 0.7
perceptron digits adamw cosine : overfit 200
gru markov adamw cosine : overfit 400
gru markov adam onecycle : leak 450
batch_norm digits sgd cosine : eval_mode 1
perceptron digits adamw cosine : leak 200
perceptron clusters sgd cosine : unshuffled 1
perceptron clusters adamw cosine : unscaled 10
perceptron clusters adamw cosine : unscaled 100
perceptron friedman adamw cosine : uncentred 8
gru markov adamw cosine : labels_random 1
perceptron digits adamw cosine : labels_noisy 0.1
batch_norm clusters sgd cosine : labels_noisy 0.3
deep digits adamw cosine : vanishing 0.3
deep clusters sgd cosine : sigmoids 1
skips friedman adamw cosine : exploding 3
perceptron clusters adamw cosine : exploding 6
deep clusters adamw cosine : dead_relu 1
perceptron digits adamw cosine : dead_relu 3
batch_norm digits adamw cosine : dropout 0.8
perceptron clusters adamw cosine : dropout 0.6
perceptron digits adamw cosine : softmax_twice 1
gru markov adam onecycle : softmax_twice 1
skips friedman adamw cosine : head_only 1
convolutions digits adamw cosine : detached 1
perceptron digits momentum constant : bad_batch 20
perceptron clusters adam constant : rate_burst 30
perceptron digits momentum constant : rate_burst 10
skips friedman momentum step : nan_example 3
perceptron digits sgd cosine : labels_noisy 0.3 + clip_small 0.1
skips clusters adamw cosine : rate_low 20 + labels_noisy 0.3
perceptron friedman adamw cosine : uncentred 4 + decay_early 0.15
convolutions digits sgd cosine : clip_small 0.1 + labels_noisy 0.3
gru markov adam onecycle : rate_low 16 + softmax_twice 1
batch_norm digits sgd cosine : decay_early 0.3 + eval_mode 1
perceptron clusters adamw cosine : weight_decay 3 + unshuffled 1
perceptron digits adamw cosine : decay_early 0.1 + head_only 1
skips friedman momentum step : decay_early 0.15 + dropout 0.8
convolutions digits adamw cosine : rate_low 10 + dropout 0.9
"""

JUDGED_SICK = """
smooth clothes adamw cosine : rate_low 6
lstm manual adam onecycle : rate_low 6
smooth waves sgd cosine : rate_low 8
tower clothes adamw cosine : rate_high 6
smooth interactions adam constant : rate_high 4
broad clothes adamw cosine : rate_high 30
conv_norm clothes sgd cosine : momentum_rate 0.97
smooth interactions sgd cosine : momentum_rate 0.96
smooth waves adamw cosine : no_decay 1
normed waves adamw cosine : no_decay 1
smooth clothes adamw cosine : decay_early 0.4
transformer manual adamw cosine : decay_early 0.15
conv_skips clothes sgd cosine : by_step 0.985
normed interactions adam onecycle : by_epoch 1
smooth waves adamw cosine : waves 10
smooth clothes momentum constant : stopped_early 2
conv_norm clothes sgd cosine : batch_small 8
lstm manual adamw cosine : batch_small 4
smooth waves adamw cosine : batch_large 4
normed interactions sgd cosine : batch_large 8
smooth clothes sgd cosine : accumulation 4
conv_norm clothes adamw cosine : zero_grad 12
smooth interactions sgd cosine : zero_grad 6
smooth clothes sgd cosine : clip_small 0.5
conv_skips clothes momentum step : clip_small 0.05
conv_skips clothes momentum step : clip_small 0.5
conv_norm clothes sgd cosine : weight_decay 0.015
smooth waves adamw cosine : weight_decay 0.4
smooth clothes adamw cosine : overfit 500
smooth clothes adamw cosine : leak 150
smooth interactions sgd cosine : unshuffled 1
conv_skips clothes adamw cosine : unscaled 60
smooth interactions adamw cosine : unscaled 15
lstm tones adamw cosine : labels_random 1
smooth clothes adamw cosine : labels_noisy 0.1
tower clothes adamw cosine : vanishing 0.4
tower interactions adamw cosine : sigmoids 1
tower interactions sgd cosine : exploding 8
smooth interactions adamw cosine : exploding 5
tower clothes adamw cosine : dead_relu 1
smooth clothes adamw cosine : dropout 0.9
smooth interactions adamw cosine : softmax_twice 1
transformer manual adam onecycle : softmax_twice 1
conv_norm clothes sgd cosine : eval_mode 1
normed waves adamw cosine : head_only 1
smooth clothes momentum step : detached 1
smooth waves momentum constant : bad_batch 20
normed waves adamw cosine : rate_burst 30
conv_skips clothes sgd cosine : nan_example 3
broad clothes momentum step : nan_example 100
smooth clothes sgd cosine : clip_small 0.1 + labels_noisy 0.3
normed waves adamw cosine : rate_low 20 + dropout 0.8
smooth waves adamw cosine : uncentred 10 + decay_early 0.15
conv_norm clothes adamw cosine : rate_low 20 + labels_noisy 0.3
lstm manual adam onecycle : rate_low 10 + softmax_twice 1
conv_norm clothes adamw cosine : decay_early 0.15 + labels_noisy 0.3
smooth interactions adamw cosine : weight_decay 3 + unshuffled 1
conv_skips clothes momentum step : clip_small 0.1 + dropout 0.9
smooth clothes adamw cosine : decay_early 0.1 + head_only 1
"""

FRESH_HEALTHY = """
network       data   steps batch adamw/cosine sgd/cosine momentum/step adam/onecycle momentum/constant adam/constant
swish         rings  500   32    0.020        -          -             0.020         -                 0.008
swish         arm    600   32    0.012        0.60       0.06          0.012         0.030             0.005
funnel        shapes 400   32    0.005        -          -             0.005         -                 0.002
funnel        rings  500   32    0.010        -          -             0.010         -                 0.004
layer_norm    rings  400   32    0.020        0.40       0.04          0.020         0.020             0.008
layer_norm    arm    800   32    0.010        0.07       0.007         0.010         0.004             0.004
stack         shapes 400   32    0.012        0.20       0.02          0.012         0.012             0.004
residual_norm shapes 500   32    0.020        0.50       0.05          0.020         0.020             0.006
vision        shapes 300   32    0.005        -          -             0.005         -                 0.002
decoder       source 300   32    0.003        -          -             0.003         -                 0.001
"""

FRESH_SICK = """
swish arm sgd cosine : rate_low 6
layer_norm rings adamw cosine : rate_low 10
vision shapes adamw cosine : rate_low 8
decoder source adamw cosine : rate_low 8
stack shapes momentum step : rate_high 6
funnel rings adamw cosine : rate_high 4
decoder source adamw cosine : rate_high 10
vision shapes adamw cosine : rate_high 5
swish arm sgd cosine : momentum_rate 0.96
stack shapes sgd cosine : momentum_rate 0.96
swish arm adamw cosine : no_decay 1
layer_norm arm adamw cosine : no_decay 1
stack shapes adamw cosine : decay_early 0.3
decoder source adamw cosine : decay_early 0.2
swish arm adamw cosine : by_step 0.985
residual_norm shapes adam onecycle : by_epoch 1
layer_norm arm adamw cosine : waves 15
stack shapes momentum constant : stopped_early 3
swish arm adam constant : stopped_early 4
residual_norm shapes sgd cosine : batch_small 4
decoder source adamw cosine : batch_small 2
swish arm adamw cosine : batch_large 8
stack shapes sgd cosine : batch_large 4
layer_norm rings sgd cosine : accumulation 4
residual_norm shapes adamw cosine : zero_grad 10
swish arm sgd cosine : clip_small 0.1
layer_norm arm momentum step : clip_small 0.1
swish arm adamw cosine : weight_decay 1
stack shapes sgd cosine : weight_decay 0.02
funnel shapes adamw cosine : overfit 300
layer_norm rings adamw cosine : overfit 300
layer_norm rings adamw cosine : unshuffled 1
swish arm adamw cosine : unscaled 30
stack shapes adamw cosine : unscaled 50
vision shapes adamw cosine : labels_random 1
layer_norm rings adamw cosine : labels_noisy 0.25
funnel rings adamw cosine : vanishing 0.35
funnel shapes adamw cosine : sigmoids 1
swish arm adamw cosine : exploding 6
funnel rings adamw cosine : dead_relu 1
stack shapes adamw cosine : dropout 0.6
layer_norm rings adamw cosine : softmax_twice 1
residual_norm shapes sgd cosine : eval_mode 1
layer_norm arm adamw cosine : head_only 1
stack shapes momentum step : detached 1
swish arm momentum constant : bad_batch 20
swish arm adamw cosine : rate_burst 30
stack shapes sgd cosine : nan_example 3
swish arm adamw cosine : uncentred 8 + decay_early 0.15
layer_norm rings adamw cosine : rate_low 20 + labels_noisy 0.3
stack shapes adamw cosine : weight_decay 2 + labels_noisy 0.3
residual_norm shapes adamw cosine : decay_early 0.15 + head_only 1
vision shapes adamw cosine : rate_low 12 + dropout 0.8
stack shapes momentum step : clip_small 0.05 + dropout 0.9
"""

SECOND_FRESH_HEALTHY = """
network      data     steps batch adamw/cosine sgd/cosine momentum/step adam/onecycle momentum/constant adam/constant
tanh         pendulum 400   32    0.030        0.60       0.10          -             0.060             0.003
tanh         tree     400   32    0.015        0.80       -             0.015         -                 0.005
leaky        pendulum 500   32    0.015        0.30       -             0.015         -                 0.002
leaky        tree     400   32    0.010        0.50       0.06          -             0.040             -
dense_skips  tree     400   32    0.020        1.50       -             0.020         -                 0.006
dense_skips  pendulum 500   32    0.020        0.80       -             -             -                 -
group_norm   blobs    300   32    0.015        0.80       0.12          -             -                 0.005
strided      blobs    400   32    0.010        0.20       0.02          -             0.010             -
mixer        swings   300   32    0.008        -          -             0.008         -                 0.003
dilated      moods    300   32    0.012        -          -             -             -                 0.006
elman        moods    300   32    0.025        -          -             0.025         -                 -
"""

SECOND_FRESH_SICK = """
tanh tree adamw cosine : rate_low 6
tanh tree adamw cosine : rate_low 2.5
leaky tree adamw cosine : rate_high 3
dense_skips tree sgd cosine : weight_decay 0.004
strided blobs momentum step : clip_small 0.6
dense_skips tree adamw cosine : labels_noisy 0.12
mixer swings adamw cosine : decay_early 0.5
leaky pendulum sgd cosine : rate_low 6
mixer swings adamw cosine : rate_low 10
leaky tree adamw cosine : rate_high 6
strided blobs momentum step : rate_high 5
dilated moods adamw cosine : rate_high 8
tanh pendulum adamw cosine : rate_high 5
dense_skips tree sgd cosine : momentum_rate 0.96
tanh tree sgd cosine : momentum_rate 0.97
tanh pendulum adamw cosine : no_decay 1
strided blobs adamw cosine : no_decay 1
leaky tree adamw cosine : decay_early 0.25
mixer swings adamw cosine : decay_early 0.2
group_norm blobs sgd cosine : by_step 0.98
dense_skips tree adam onecycle : by_epoch 1
leaky pendulum adamw cosine : waves 15
strided blobs momentum constant : stopped_early 3
tanh tree sgd cosine : batch_small 4
leaky tree adamw cosine : batch_large 8
dense_skips pendulum sgd cosine : batch_large 4
tanh tree sgd cosine : accumulation 4
group_norm blobs adamw cosine : zero_grad 10
leaky tree sgd cosine : clip_small 0.1
strided blobs momentum step : clip_small 0.1
tanh pendulum adamw cosine : weight_decay 1
dense_skips tree sgd cosine : weight_decay 0.01
dense_skips tree adamw cosine : overfit 300
dense_skips tree adamw cosine : leak 300
tanh tree adamw cosine : unshuffled 1
leaky pendulum adamw cosine : unscaled 30
dense_skips tree adamw cosine : uncentred 8
mixer swings adamw cosine : labels_random 1
dense_skips tree adamw cosine : labels_noisy 0.25
leaky tree adamw cosine : vanishing 0.3
leaky pendulum adamw cosine : sigmoids 1
leaky pendulum adamw cosine : exploding 8
strided blobs adamw cosine : dead_relu 1
strided blobs adamw cosine : dropout 0.8
leaky tree adamw cosine : softmax_twice 1
mixer swings adamw cosine : head_only 1
tanh tree adamw cosine : detached 1
tanh pendulum momentum constant : bad_batch 20
leaky pendulum adamw cosine : rate_burst 30
strided blobs sgd cosine : nan_example 3
leaky pendulum adamw cosine : uncentred 8 + decay_early 0.15
dense_skips tree adamw cosine : rate_low 20 + labels_noisy 0.3
leaky tree adamw cosine : weight_decay 2 + unshuffled 1
mixer swings adamw cosine : decay_early 0.15 + head_only 1
strided blobs momentum step : clip_small 0.05 + dropout 0.9
tanh tree sgd cosine : clip_small 0.1 + labels_noisy 0.3
"""
