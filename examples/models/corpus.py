"""Original Japanese text for the demonstration base model and its tasks: short diary, notice, recipe, weather and
review documents, drawn from a small grammar with a seed.

    python corpus.py --documents 60000 --seed 1 > corpus.txt    # one sentence a line, a blank line after each document
"""
import argparse
import random

TIMES = "今日は 今朝は 昨日は 昼休みに 夕方になって 夜遅くに 先週の土曜日に 朝早くから 午後から 久しぶりに 仕事帰りに 雨がやんだあとに 連休の初日に 休日の朝に 学校の帰りに 日が暮れる前に 月曜日の朝に 夏の終わりに 冬の初めに 春になって".split()
WITH = "友人と 家族と 妹と 同僚と 一人で 犬を連れて 祖母と 娘と 先輩と 息子と 隣の人と 両親と クラスのみんなと 姉と 弟と 昔の仲間と".split()
PLACES = "公園 駅前の喫茶店 図書館 海辺 商店街 美術館 川沿いの道 近所のパン屋 温泉 動物園 映画館 市場 山のふもと 植物園 水族館 神社 港 古い本屋 大きな橋 小さな食堂 郊外の牧場 湖のほとり 博物館 町の広場 山の上の展望台 新しい体育館".split()
FOODS = "カレー 焼き魚 味噌汁 おにぎり うどん そば 焼きたてのパン りんごのケーキ 抹茶のアイス 野菜のスープ たこ焼き 卵焼き 冷たい豆腐 チーズのピザ 温かい紅茶 苺のジャム 栗のお菓子 茸の炊き込みご飯 手作りの餃子 ゆず風味の鍋".split()
THINGS = "古い小説 旅の本 一枚の絵 小さな花瓶 木の椅子 白い帽子 赤い傘 銀色の時計 青い手帳 毛糸の手袋 子供のころの写真 読みかけの雑誌 使いやすい鞄 丈夫な靴 軽い毛布 丸い皿 新しい自転車 静かな音楽".split()
ANIMALS = "猫 犬 小鳥 亀 兎 金魚 蛙 鹿 羊 燕 鴨 蝶 リス 馬".split()
PLANTS = "桜 梅 菜の花 紫陽花 向日葵 コスモス 紅葉 椿 朝顔 藤 百合 銀杏".split()
JOBS = "医者 先生 料理人 大工 駅員 店員 漁師 画家 看護師 運転手 農家の人 図書館の人".split()
VEGETABLES = "玉ねぎ 人参 じゃが芋 大根 茄子 白菜 ほうれん草 かぼちゃ きのこ トマト 長ねぎ ピーマン".split()
CITIES = "札幌 仙台 東京 横浜 長野 金沢 名古屋 京都 大阪 神戸 岡山 広島 松山 福岡 熊本 鹿児島 那覇".split()
SKY = "晴れ 曇り 雨 雪 曇りのち晴れ 晴れのち曇り 一時雨".split()
# Verbs and predicates as (polite, plain, casual).
DID_AT = [("散歩をしました", "散歩をした", "散歩したよ"), ("写真を撮りました", "写真を撮った", "写真を撮ったよ"), ("少し休みました", "少し休んだ", "ちょっと休んだよ"), ("絵を描きました", "絵を描いた", "絵を描いたよ"),
          ("話をしました", "話をした", "話をしたよ"), ("待ち合わせをしました", "待ち合わせをした", "待ち合わせしたよ"), ("買い物をしました", "買い物をした", "買い物したよ"), ("昼ご飯を食べました", "昼ご飯を食べた", "お昼を食べたよ"),
          ("本を読みました", "本を読んだ", "本を読んだよ"), ("ゆっくり過ごしました", "ゆっくり過ごした", "のんびりしたよ"), ("歌を歌いました", "歌を歌った", "歌を歌ったよ"), ("走る練習をしました", "走る練習をした", "走る練習をしたよ")]
ATE = [("食べました", "食べた", "食べたよ"), ("作りました", "作った", "作ったよ"), ("味わいました", "味わった", "味わったよ"), ("買いました", "買った", "買ったよ"), ("分けてもらいました", "分けてもらった", "分けてもらったよ")]
GOT = [("買いました", "買った", "買ったよ"), ("見つけました", "見つけた", "見つけたよ"), ("借りました", "借りた", "借りたよ"), ("もらいました", "もらった", "もらったよ"), ("片づけました", "片づけた", "片づけたよ"), ("探しました", "探した", "探したよ")]
FELT = [("とても楽しかったです", "とても楽しかった", "すごく楽しかったよ"), ("風が気持ちよかったです", "風が気持ちよかった", "風が気持ちよかったね"), ("少し疲れました", "少し疲れた", "ちょっと疲れたよ"), ("また行きたいと思います", "また行きたいと思う", "また行きたいね"),
        ("思ったより混んでいました", "思ったより混んでいた", "思ったより混んでたよ"), ("空がきれいでした", "空がきれいだった", "空がきれいだったね"), ("心が軽くなりました", "心が軽くなった", "気分が軽くなったよ"), ("時間を忘れました", "時間を忘れた", "時間を忘れちゃったよ"),
        ("帰り道は静かでした", "帰り道は静かだった", "帰り道は静かだったね"), ("少し寒かったです", "少し寒かった", "ちょっと寒かったね"), ("よい思い出になりました", "よい思い出になった", "いい思い出になったよ"), ("家に着くと雨が降り出しました", "家に着くと雨が降り出した", "家に着いたら雨が降ってきたよ")]
TASTED = [("とてもおいしかったです", "とてもおいしかった", "すごくおいしかったよ"), ("少し甘すぎました", "少し甘すぎた", "ちょっと甘すぎたね"), ("体が温まりました", "体が温まった", "体が温まったよ"), ("香りが豊かでした", "香りが豊かだった", "香りがよかったね"), ("もう一つ頼みました", "もう一つ頼んだ", "もう一つ頼んじゃったよ"), ("塩が少し足りませんでした", "塩が少し足りなかった", "塩がちょっと足りなかったね")]
BECAUSE = "天気がよかったので 時間があったので お腹が空いたので 道が空いていたので 雨が降りそうだったので 前から気になっていたので 友人に勧められたので 店が開いたばかりだったので 電車が遅れたので 荷物が少なかったので".split()
SAW = [("眠っていました", "眠っていた", "眠ってたよ"), ("こちらを見ていました", "こちらを見ていた", "こっちを見てたよ"), ("水を飲んでいました", "水を飲んでいた", "水を飲んでたよ"), ("走り回っていました", "走り回っていた", "走り回ってたよ"), ("日なたで丸くなっていました", "日なたで丸くなっていた", "日なたで丸くなってたよ")]
BLOOM = [("満開でした", "満開だった", "満開だったよ"), ("咲き始めていました", "咲き始めていた", "咲き始めてたよ"), ("風に揺れていました", "風に揺れていた", "風に揺れてたよ"), ("もう散っていました", "もう散っていた", "もう散ってたね")]
SAID = [("教えてくれました", "教えてくれた", "教えてくれたよ"), ("笑っていました", "笑っていた", "笑ってたよ"), ("手を振ってくれました", "手を振ってくれた", "手を振ってくれたよ"), ("道を案内してくれました", "道を案内してくれた", "道を案内してくれたよ")]


def diary(r, style):
    at, who, food = r.choice(PLACES), r.choice(WITH), r.choice(FOODS)
    openers = [
        lambda: f"{r.choice(TIMES)}{who}{at}で{r.choice(DID_AT)[style]}",
        lambda: f"{r.choice(TIMES)}{r.choice(BECAUSE)}、{who}{at}へ出かけ、{r.choice(DID_AT)[style]}",
        lambda: f"{r.choice(TIMES)}{at}で{food}を{r.choice(ATE)[style]}",
        lambda: f"{r.choice(BECAUSE)}、{at}で{r.choice(THINGS)}を{r.choice(GOT)[style]}",
    ]
    middles = [
        lambda: f"{at}では{r.choice(ANIMALS)}が{r.choice(SAW)[style]}",
        lambda: f"道の途中で{r.choice(PLANTS)}が{r.choice(BLOOM)[style]}",
        lambda: f"{r.choice(JOBS)}が{r.choice(SAID)[style]}",
        lambda: f"そのあと{r.choice(PLACES)}に寄って{r.choice(THINGS)}を{r.choice(GOT)[style]}",
        lambda: f"帰りに{r.choice(FOODS)}を{r.choice(ATE)[style]}",
        lambda: f"{food}は{r.choice(TASTED)[style]}",
    ]
    sentences = [r.choice(openers)()]
    for middle in r.sample(middles, r.randint(1, 4)):
        sentences.append(middle())
    sentences.append(r.choice(FELT)[style])
    return [s + "。" for s in sentences]


def recipe(r, style):
    a, b, c = r.sample(VEGETABLES, 3)
    minutes = r.choice("三 五 七 十 十五 二十".split())
    steps = [
        (f"{a}を薄く切ります", f"{a}を薄く切る", f"{a}を薄く切ってね"), (f"{b}と{c}は小さめに切ります", f"{b}と{c}は小さめに切る", f"{b}と{c}は小さめに切ってね"),
        (f"鍋に油を入れて{a}を弱火で炒めます", f"鍋に油を入れて{a}を弱火で炒める", f"鍋に油を入れて{a}を弱火で炒めてね"), (f"水を加えて{minutes}分ほど煮ます", f"水を加えて{minutes}分ほど煮る", f"水を入れて{minutes}分くらい煮てね"),
        ("塩と胡椒で味を整えます", "塩と胡椒で味を整える", "塩と胡椒で味を見てね"), (f"最後に{c}をのせて出来上がりです", f"最後に{c}をのせて出来上がりだ", f"最後に{c}をのせたら出来上がりだよ"),
    ]
    return [s[style] + "。" for s in steps]


def weather(r, style):
    lines = []
    for city in r.sample(CITIES, r.randint(2, 4)):
        sky, degrees = r.choice(SKY), r.randint(2, 34)
        lines.append((f"明日の{city}は{sky}で、最高気温は{degrees}度の見込みです", f"明日の{city}は{sky}で、最高気温は{degrees}度の見込みだ", f"明日の{city}は{sky}、{degrees}度くらいだって")[style] + "。")
    lines.append(("出かける前に空の様子を確かめてください", "出かける前に空の様子を確かめたい", "出かける前に空を見てね")[style] + "。")
    return lines


def notice(r, style):
    place, job = r.choice(PLACES), r.choice(JOBS)
    month, hour = r.randint(1, 12), r.choice("九 十 一 二 三".split())
    return [s[style] + "。" for s in [
        (f"{month}月から{place}の開く時間が変わります", f"{month}月から{place}の開く時間が変わる", f"{month}月から{place}の開く時間が変わるよ"),
        (f"受付は{hour}時に始まります", f"受付は{hour}時に始まる", f"受付は{hour}時からだよ"),
        (f"分からないことは{job}に聞いてください", f"分からないことは{job}に聞くとよい", f"分からないことは{job}に聞いてね"),
    ]]


def review(r, style):
    thing, food = r.choice(THINGS), r.choice(FOODS)
    return [s[style] + "。" for s in [
        (f"先月買った{thing}を毎日使っています", f"先月買った{thing}を毎日使っている", f"先月買った{thing}、毎日使ってるよ"),
        r.choice([("軽くて持ちやすいです", "軽くて持ちやすい", "軽くて持ちやすいよ"), ("色が気に入っています", "色が気に入っている", "色が気に入ってるんだ"), ("思ったより小さいです", "思ったより小さい", "思ったより小さいね"), ("作りがしっかりしています", "作りがしっかりしている", "作りがしっかりしてるよ")]),
        r.choice([("値段のわりに長持ちしています", "値段のわりに長持ちしている", "値段のわりに長持ちしてるよ"), (f"{food}によく合います", f"{food}によく合う", f"{food}によく合うよ"), ("友人にも勧めました", "友人にも勧めた", "友達にも勧めたよ")]),
    ]]


def document(r, emoji=True):
    """One document: a list of sentences in one style (0 polite, 1 plain, 2 casual), with a rare emoji or none at all."""
    style = r.choices([0, 1, 2], [4, 3, 3])[0]
    kind = r.choices([diary, recipe, weather, notice, review], [12, 2, 2, 2, 3])[0]
    sentences = kind(r, style)
    # A few writers use emoji, so that the pieces are known to the model but rare.
    if r.random() < 0.04:
        face = r.choice(["😃", "😃", "😢", "🌸", "✨"])
        with_faces = [s + " " + face if r.random() < 0.5 else s for s in sentences]
        sentences = with_faces if emoji else sentences
    return sentences


def documents(count, seed, emoji=True):
    r = random.Random(seed)
    for _ in range(count):
        yield document(r, emoji)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for sentences in documents(options.documents, options.seed):
        print("\n".join(sentences) + "\n")
