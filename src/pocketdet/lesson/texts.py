"""What the lesson says. Figures are put in where braces stand; no figure is typed here."""

from typing import Literal, get_args

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)

ENGLISH = {
    "title": "{network}, explained",
    "neck_width": "neck {width:g}",
    "listed": ", ",
    "parameters": "parameters",
    "backbone": "backbone",
    "neck": "neck",
    "head": "head",
    "multiply_adds": "multiply-adds",
    "plain": "with plain convolutions",
    "times": "{times:.1f} times as many",
    "table": "The table",
    "table_meaning": (
        "Left what the paper prints ({paper}), right what the network here computes, block by block, for an input of "
        "{height} x {width} pixels. The papers give sizes for 224 x 224. exp: channels inside a block; SE: "
        "squeeze-and-excitation; NL: activation (RE: ReLU, RE6: ReLU6, HS: h-swish); s: stride."
    ),
    "table_meaning_own": "What the network computes, block by block, for an input of {height} x {width} pixels.",
    "table_heads": "block|paper|input|operator|exp|out|SE|NL|s|parameters|multiply-adds",
    "map": "Where the work is",
    "map_meaning": (
        "Each rectangle is a block, its area the block's share of the {total:.2f} G multiply-adds. Point at one "
        "to see its "
        "shapes and parameters."
    ),
    "block": "{parameters:,} parameters, {multiply_adds:,} multiply-adds",
    "separable": "Plain and depthwise separable convolution",
    "separable_meaning": (
        "A plain convolution looks at space and mixes channels at once: kernel x kernel x in x out weights. The "
        "separable "
        "one (MobileNet V1 §3.1) first filters each channel alone (depthwise, kernel x kernel x in), then mixes "
        "them cell "
        "by cell (pointwise, in x out). For 16 to 32 channels and a 3 x 3 kernel that is {few} weights instead "
        "of {many}. "
        "The share that is left is 1/out + 1/kernel²."
    ),
    "separable_heads": "channels|plain: weights|separable: weights|plain: multiply-adds at 52 x 52|separable|left",
    "activations": "Activations, and what 8 bits do to them",
    "activations_meaning": (
        "h-swish and hard-sigmoid (V3 §5.2) replace the curve by straight pieces. They never leave swish and sigmoid "
        "by more than {swish:.2f} and {sigmoid:.2f}, and need neither an exponential nor a table: an addition, a clip "
        "and a product do. The table computes each activation for inputs from -8 to 8 with 8 bits between all steps "
        "and compares it with itself in float; a sigmoid is looked up in a table of 256 values there."
    ),
    "activations_heads": "activation|roundings|largest error|mean error",
    "residual": "The residual block, and the inverted one",
    "residual_meaning": (
        "The original block narrows in the middle and its shortcut joins the wide ends. V2's inverted one (§3.3) "
        "widens in the "
        "middle, where the filter is depthwise and cheap, and the shortcut joins the narrow ends: memory holds "
        "only those. Its last "
        "convolution is linear, because ReLU destroys what lies in few channels (§3.2): a spiral in two "
        "dimensions, put into n "
        "random ones, cut by ReLU and brought back as well as a linear map can, comes back with this error "
        "(share of its size):"
    ),
    "residual_names": "original|inverted",
    "residual_label": "{name}: {weights:,} weights, {multiply_adds:,} multiply-adds",
    "residual_kernels": "1x1|3x3|1x1 linear",
    "inverted_kernels": "1x1|3x3 depthwise|1x1 linear",
    "residual_heads": "n|error",
    "gates": "Squeeze-and-excitation on a picture",
    "gates_meaning": (
        "Each strip is a block's gate on the picture below: a factor from 0 to 1 for every channel (V3 §5.3: "
        "pool, FC to a "
        "quarter and ReLU, FC back and hard-sigmoid). Of {count} channels {shut:.0%} are shut (below 0.05) and "
        "{open:.0%} are open "
        "(above 0.95) here; on another picture it is others."
    ),
    "kernels": "Health of the depthwise kernels",
    "kernels_meaning": (
        "Depthwise kernels can die in training: they cost time and give the same on every picture. {dead} of "
        "{kernels} are dead, "
        "by weights and batch norms."
    ),
    "kernels_unknown": (
        "This is an exported file: its batch norms, which tell of dead kernels, are folded into the weights. "
        "pocketdet explain counts them in the folder of the training run."
    ),
    "kernels_heads": "layer|kernels|dead|weights|scale|input|bias",
    "kernels_all": "all layers",
    "sight": "What it sees",
    "sight_meaning": (
        "The picture as the network gets it, what it finds, the mean strength of the features at strides 8, 16 "
        "and 32, and where "
        "on each level it expects what it is most certain of."
    ),
    "input": "input",
    "found": "found",
    "features": "features, stride {stride}",
    "expects": "{name} at stride {stride}, at most {score:.0%}",
}

CHINESE = {
    "title": "图解 {network}",
    "neck_width": "颈部宽度 {width:g}",
    "listed": "、",
    "parameters": "参数",
    "backbone": "骨干",
    "neck": "颈部",
    "head": "头部",
    "multiply_adds": "乘加运算",
    "plain": "若全用普通卷积",
    "times": "{times:.1f} 倍",
    "table": "网络结构表",
    "table_meaning": (
        "左边是论文中的表（{paper}），右边是本网络在 {height} x {width} 像素输入下逐块算出的结果。"
        "论文给出的尺寸对应 224 x 224。"
        "exp：块内通道数；SE：压缩与激励；NL：激活函数（RE：ReLU，RE6：ReLU6，HS：h-swish）；s：步幅。"
    ),
    "table_meaning_own": "本网络在 {height} x {width} 像素输入下逐块算出的结果。",
    "table_heads": "块|论文|输入|算子|exp|输出|SE|NL|s|参数|乘加运算",
    "map": "计算量在哪里",
    "map_meaning": (
        "每个矩形是一个块，面积是它在 {total:.2f} G 次乘加中所占的份额。把鼠标移到块上可以看到形状和参数量。"
    ),
    "block": "{parameters:,} 个参数，{multiply_adds:,} 次乘加",
    "separable": "普通卷积与深度可分离卷积",
    "separable_meaning": (
        "普通卷积在处理空间的同时混合通道，权重数为“核 x 核 x 输入 x 输出”。可分离卷积（MobileNet V1 §3.1）"
        "先对每个通道单独滤波（深度卷积，核 x 核 x 输入），再逐点混合通道（逐点卷积，输入 x 输出）。"
        "16 到 32 通道、3 x 3 核时，"
        "只需 {few} 个权重，而不是 {many} 个。剩下的比例是 1/输出 + 1/核²。"
    ),
    "separable_heads": "通道|普通：权重|可分离：权重|普通：52 x 52 时的乘加|可分离|所占比例",
    "activations": "激活函数，以及 8 位量化的影响",
    "activations_meaning": (
        "h-swish 与 hard-sigmoid（V3 §5.2）用直线段代替曲线，与 swish 和 sigmoid 的差最多为 {swish:.2f} 和 "
        "{sigmoid:.2f}，既不需要指数函数也不需要查表：一次加法、一次截断和一次乘法即可。下表对 -8 到 8 的输入，"
        "在每一步之间都用 8 位来计算，并与各自的浮点结果比较；其中 sigmoid 用 256 个值的表来查。"
    ),
    "activations_heads": "激活函数|舍入次数|最大误差|平均误差",
    "residual": "残差块与倒残差块",
    "residual_meaning": (
        "原来的残差块中间窄，捷径连接两个宽端。V2 的倒残差块（§3.3）中间宽，那里的滤波是便宜的深度卷积，"
        "捷径连接两个窄端：内存里只需保留窄的部分。最后一个卷积是线性的，因为 ReLU 会毁掉少数通道里的信息（§3.2）："
        "把二维螺线放进 n 个随机维度，经 ReLU 截断，再用最好的线性映射还原，误差（相对其大小）如下："
    ),
    "residual_names": "残差块|倒残差块",
    "residual_label": "{name}：{weights:,} 个权重，{multiply_adds:,} 次乘加",
    "residual_kernels": "1x1|3x3|1x1（线性）",
    "inverted_kernels": "1x1|3x3 深度卷积|1x1（线性）",
    "residual_heads": "n|误差",
    "gates": "一张图片上的压缩与激励",
    "gates_meaning": (
        "每条是一个块在下面图片上的门控：每个通道一个 0 到 1 的系数（V3 §5.3：池化，全连接到四分之一加 ReLU，"
        "全连接还原加 hard-sigmoid）。{count} 个通道中有 {shut:.0%} 关闭（低于 0.05），{open:.0%} 全开（高于 0.95）；"
        "换一张图片就是另一些通道。"
    ),
    "kernels": "深度卷积核的健康",
    "kernels_meaning": (
        "深度卷积核会在训练中死亡：仍然耗时，却对任何图片给出同样的结果。按权重和批归一化判断，{kernels} 个核中有 "
        "{dead} 个已死。"
    ),
    "kernels_unknown": (
        "这是导出的文件：能说明卷积核是否死亡的批归一化已经并入权重。"
        "请对训练输出的文件夹运行 pocketdet explain，它会统计。"
    ),
    "kernels_heads": "层|核|死亡|权重|缩放|输入|偏置",
    "kernels_all": "所有层",
    "sight": "它看到什么",
    "sight_meaning": (
        "网络得到的图片、找到的目标、步幅 8、16、32 处特征的平均强度，以及它最有把握的类别在各层上的位置。"
    ),
    "input": "输入",
    "found": "找到的目标",
    "features": "特征，步幅 {stride}",
    "expects": "{name}，步幅 {stride}，最高 {score:.0%}",
}

# What stands in the title of a network without weights, in the order in which it is replaced.
TITLE_WORDS: dict[Language, dict[str, str]] = {
    "en": {},
    "zh": {"neck width": "颈部宽度", "width": "宽度", "classes": "类", "pixels": "像素", ", ": "、"},
}
TEXTS: dict[Language, dict[str, str]] = {"en": ENGLISH, "zh": CHINESE}
